#include <algorithm>
#include <vector>

#include "formats/bitmask.h"
#include "formats/row_sources.h"

namespace filigree {
namespace {

constexpr uint64_t kBatchRows = 64;

// Stored values of f32, f16 or bf16 behind a bitmask.
class BitmaskRows final : public MatrixRows {
 public:
  BitmaskRows(const TensorDesc& desc, Extent extent, std::span<const File> files)
      : MatrixRows(desc, extent),
        values_(desc, "compressed", files),
        mask_(desc, extent, files, stored(values_), 1) {}

  bool masked() const override { return true; }
  void read_mask(uint64_t row, uint64_t n, uint8_t* bits) const override {
    check_range(row, n);
    mask_.read(row, n, bits);
  }

  void read_f32(uint64_t row, uint64_t n, float* out) const override {
    check_range(row, n);
    const uint64_t element = dtype_bytes(values_.dtype());
    std::vector<uint8_t> bits(std::min(kBatchRows, n) * mask_.row_bytes()), raw;
    std::vector<float> values;
    std::fill(out, out + n * cols(), 0.0f);
    for (uint64_t i = 0; i < n; i += kBatchRows) {
      const uint64_t take = std::min(kBatchRows, n - i), first = row + i;
      mask_.read(first, take, bits.data());
      const uint64_t begin = mask_.offset(first), count = mask_.offset(first + take) - begin;
      raw.resize(count * element);
      values.resize(count);
      values_.read(begin * element, raw.data(), raw.size());
      convert_floats(values_.dtype(), raw.data(), count, values.data());
      const float* next = values.data();
      for (uint64_t r = 0; r < take; r++) {
        float* line = out + (i + r) * cols();
        for_each_set_bit(bits.data() + r * mask_.row_bytes(), mask_.row_bytes(),
                         [&](uint64_t c) { line[c] = *next++; });
      }
    }
  }

 private:
  static uint64_t stored(const PartView& values) {
    values.require_dtype({"f32", "f16", "bf16"});
    return values.elements();
  }

  const PartView values_;
  const Bitmask mask_;
};

}  // namespace

std::unique_ptr<RowSource> open_bitmask_rows(const TensorDesc& desc, std::span<const File> files) {
  return std::make_unique<BitmaskRows>(desc, extent_of(desc), files);
}

}  // namespace filigree
