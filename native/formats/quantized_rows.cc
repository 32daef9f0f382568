#include <algorithm>
#include <cstring>
#include <vector>

#include "base/status.h"
#include "formats/bitmask.h"
#include "formats/quant_params.h"
#include "formats/row_sources.h"

namespace filigree {
namespace {

constexpr uint64_t kBatchRows = 16;

// Where signed codes come from. Elements that are not stored have code 0.
class CodeReader {
 public:
  virtual ~CodeReader() = default;
  virtual void read(uint64_t row, uint64_t n, int8_t* codes) const = 0;  // [n][cols]
  virtual const Bitmask* mask() const { return nullptr; }
};

// Codes of fewer than 8 bits that lie in an i8 each must be what their width allows.
void check_width(const std::string& tensor, int bits, const int8_t* codes, uint64_t n) {
  const int half = 1 << (bits - 1);
  if (bits < 8 && !std::all_of(codes, codes + n, [half](int8_t q) { return q >= -half && q < half; })) {
    fail_corrupt(tensor, "holds a code outside " + std::to_string(bits) + " bits");
  }
}

class PlainCodes final : public CodeReader {
 public:
  PlainCodes(const TensorDesc& desc, Extent extent, std::span<const File> files)
      : name_(desc.name), bits_(desc.bits), cols_(extent.cols), data_(desc, "weight", files) {
    data_.require_dtype({"i8"});
    data_.require_bytes(extent.rows * extent.cols);
  }
  void read(uint64_t row, uint64_t n, int8_t* codes) const override {
    data_.read(row * cols_, codes, n * cols_);
    check_width(name_, bits_, codes, n * cols_);
  }

 private:
  const std::string name_;
  const int bits_;
  const uint64_t cols_;
  const PartView data_;
};

// 32 / bits codes to a little-endian word, low bits first, each stored as code + 2^(bits-1).
class PackedCodes final : public CodeReader {
 public:
  PackedCodes(const TensorDesc& desc, Extent extent, std::span<const File> files)
      : cols_(extent.cols),
        bits_(static_cast<uint32_t>(desc.bits)),
        per_word_(32 / bits_),
        words_(ceil_div(cols_, per_word_)),
        data_(desc, "packed", files) {
    data_.require_dtype({"i32"});
    data_.require_bytes(extent.rows * words_ * 4);
  }
  void read(uint64_t row, uint64_t n, int8_t* codes) const override {
    std::vector<uint32_t> words(words_);
    const uint32_t low = (1u << bits_) - 1;
    const int half = 1 << (bits_ - 1);
    for (uint64_t i = 0; i < n; i++) {
      data_.read((row + i) * words_ * 4, words.data(), words_ * 4);
      int8_t* line = codes + i * cols_;
      for (uint64_t w = 0, c = 0; w < words_; w++) {
        uint32_t word = words[w];
        for (const uint64_t end = std::min(cols_, c + per_word_); c < end; c++, word >>= bits_) {
          line[c] = static_cast<int8_t>(static_cast<int>(word & low) - half);
        }
      }
    }
  }

 private:
  const uint64_t cols_;
  const uint32_t bits_;
  const uint64_t per_word_, words_;
  const PartView data_;
};

class BitmaskCodes final : public CodeReader {
 public:
  // nibbles: two 4-bit codes + 8 to a byte, every row on a byte; else one i8 code each.
  BitmaskCodes(const TensorDesc& desc, Extent extent, std::span<const File> files, bool nibbles)
      : name_(desc.name),
        bits_(desc.bits),
        cols_(extent.cols),
        nibbles_(nibbles),
        data_(desc, "compressed", files),
        mask_(desc, extent, files, stored(data_, nibbles), nibbles ? 2 : 1) {}

  void read(uint64_t row, uint64_t n, int8_t* codes) const override {
    std::vector<uint8_t> bits(mask_.row_bytes()), values;
    std::memset(codes, 0, n * cols_);
    for (uint64_t i = 0; i < n; i++) {
      mask_.read(row + i, 1, bits.data());
      const uint64_t begin = mask_.offset(row + i), count = mask_.offset(row + i + 1) - begin;
      values.resize(nibbles_ ? count / 2 : count);
      data_.read(nibbles_ ? begin / 2 : begin, values.data(), values.size());
      int8_t* line = codes + i * cols_;
      uint64_t k = 0;
      for_each_set_bit(bits.data(), bits.size(), [&](uint64_t c) {
        line[c] = nibbles_ ? static_cast<int8_t>(((values[k / 2] >> (k % 2 * 4)) & 15) - 8)
                           : static_cast<int8_t>(values[k]);
        k++;
      });
    }
    check_width(name_, bits_, codes, n * cols_);
  }
  const Bitmask* mask() const override { return &mask_; }

 private:
  static uint64_t stored(const PartView& data, bool nibbles) {
    data.require_dtype({nibbles ? "u8" : "i8"});
    return nibbles ? data.elements() * 2 : data.elements();
  }

  const std::string name_;
  const int bits_;
  const uint64_t cols_;
  const bool nibbles_;
  const PartView data_;
  const Bitmask mask_;
};

// The codes of a row in the shape of SourceCodes: what the columns of a group of ours share must be shared in
// the file.
std::optional<SourceCodes> codes_of(const QuantParams& params) {
  if (params.reordered()) return std::nullopt;
  if (params.bits() == 8) {
    if (params.groups() == 1 && !params.has_zero()) return SourceCodes{8, 0, false};
    return std::nullopt;
  }
  if (params.bits() != 4) return std::nullopt;
  if (params.groups() == 1 || params.group_cols() % 128 == 0) return SourceCodes{4, 128, params.has_zero()};
  if (params.group_cols() % 32 == 0) return SourceCodes{4, 32, params.has_zero()};
  return std::nullopt;
}

class QuantizedRows final : public MatrixRows {
 public:
  // masked: an element that is not stored is exactly 0; otherwise it is an element of code 0
  // (compressed-tensors packs codes, so with a zero point its absent elements are scale * (0 - zero)).
  QuantizedRows(const TensorDesc& desc, Extent extent, std::span<const File> files,
                std::unique_ptr<CodeReader> codes, bool nibbles)
      : MatrixRows(desc, extent),
        params_(desc, extent, files),
        codes_(std::move(codes)),
        masked_(codes_->mask() != nullptr && (nibbles || !params_.has_zero())) {}

  std::optional<SourceCodes> codes() const override { return codes_of(params_); }
  bool masked() const override { return masked_; }

  void read_mask(uint64_t row, uint64_t n, uint8_t* bits) const override {
    check_range(row, n);
    if (!masked_) return RowSource::read_mask(row, n, bits);
    codes_->mask()->read(row, n, bits);
  }

  void read_f32(uint64_t row, uint64_t n, float* out) const override {
    std::vector<float> line(masked_ ? cols() : 0);
    for_each_row(row, n, [&](uint64_t r, const int8_t* codes, const uint8_t* mask) {
      float* to = out + (r - row) * cols();
      if (mask == nullptr || !params_.has_zero()) return params_.dequantize(r, cols(), codes, to);
      params_.dequantize(r, cols(), codes, line.data());
      std::fill(to, to + cols(), 0.0f);
      for_each_set_bit(mask, ceil_div(cols(), 8), [&](uint64_t c) { to[c] = line[c]; });
    });
  }

  void read_codes(uint64_t row, uint64_t n, int8_t* out, float* scales, float* mins) const override {
    const std::optional<SourceCodes> kind = codes();
    if (!kind) return RowSource::read_codes(row, n, out, scales, mins);
    const uint64_t group = kind->group == 0 ? cols() : static_cast<uint64_t>(kind->group),
                   groups = ceil_div(cols(), group);
    for_each_row(row, n, [&](uint64_t r, const int8_t* codes, const uint8_t* mask) {
      int8_t* line = out + (r - row) * cols();
      std::memcpy(line, codes, cols());
      for (uint64_t g = 0; g < groups; g++) {
        const uint64_t source = g * group / params_.group_cols();
        const float scale = params_.scale(r, source);
        scales[(r - row) * groups + g] = scale;
        if (!kind->has_min) continue;
        mins[(r - row) * groups + g] = -scale * static_cast<float>(params_.zero(r, source) + 8);
      }
      if (kind->bits == 8) keep_within_127(line, &scales[r - row]);
      if (kind->has_min) {
        for (uint64_t c = 0; c < cols(); c++)
          line[c] = static_cast<int8_t>(mask == nullptr || (mask[c / 8] >> (c % 8) & 1) ? line[c] + 8 : 0);
      }
    });
  }

 private:
  // Kernels want codes of -127..127: |code| and its negative must both fit an i8.
  void keep_within_127(int8_t* line, float* scale) const {
    if (std::find(line, line + cols(), int8_t{-128}) == line + cols()) return;
    for (uint64_t c = 0; c < cols(); c++) {
      const int scaled = line[c] * 127;
      line[c] = static_cast<int8_t>((scaled + (scaled < 0 ? -64 : 64)) / 128);
    }
    *scale *= 128.0f / 127.0f;
  }

  // body(row, codes [cols], mask or null)
  template <class Body>
  void for_each_row(uint64_t row, uint64_t n, Body body) const {
    check_range(row, n);
    const uint64_t mask_bytes = ceil_div(cols(), 8);
    const bool with_mask = masked_ && params_.has_zero();
    std::vector<int8_t> codes(std::min(kBatchRows, n) * cols());
    std::vector<uint8_t> mask(with_mask ? mask_bytes : 0);
    for (uint64_t i = 0; i < n; i += kBatchRows) {
      const uint64_t take = std::min(kBatchRows, n - i);
      codes_->read(row + i, take, codes.data());
      for (uint64_t r = 0; r < take; r++) {
        if (with_mask) codes_->mask()->read(row + i + r, 1, mask.data());
        body(row + i + r, codes.data() + r * cols(), with_mask ? mask.data() : nullptr);
      }
    }
  }

  const QuantParams params_;
  const std::unique_ptr<CodeReader> codes_;
  const bool masked_;
};

}  // namespace

std::unique_ptr<RowSource> open_quantized_rows(const TensorDesc& desc, std::span<const File> files) {
  const Extent extent = extent_of(desc);
  if (desc.bits < 2 || desc.bits > 8)
    throw Error(ErrorCode::unsupported,
                "tensor " + desc.name + ": codes of " + std::to_string(desc.bits) + " bits; 2 to 8 are read");
  std::unique_ptr<CodeReader> codes;
  if (desc.encoding == "int-quantized") {
    codes = std::make_unique<PlainCodes>(desc, extent, files);
  } else {
    codes = std::make_unique<PackedCodes>(desc, extent, files);
  }
  return std::make_unique<QuantizedRows>(desc, extent, files, std::move(codes), false);
}

std::unique_ptr<RowSource> open_bitmask_quantized_rows(const TensorDesc& desc, std::span<const File> files) {
  const Extent extent = extent_of(desc);
  const bool nibbles = desc.encoding == "bitmask+pack-quantized";
  if (nibbles && desc.bits != 4)
    throw Error(ErrorCode::unsupported, "tensor " + desc.name + ": packed sparse codes of " +
                                            std::to_string(desc.bits) + " bits; 4 are read");
  return std::make_unique<QuantizedRows>(
      desc, extent, files, std::make_unique<BitmaskCodes>(desc, extent, files, nibbles), nibbles);
}

}  // namespace filigree
