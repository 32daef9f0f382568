#include "formats/quant_params.h"

#include <algorithm>
#include <cmath>

#include "base/status.h"

namespace filigree {

QuantParams::QuantParams(const TensorDesc& desc, Extent extent, std::span<const File> files)
    : bits_(desc.bits) {
  if (bits_ < 2 || bits_ > 8) {
    throw Error(ErrorCode::unsupported,
                "tensor " + desc.name + ": codes of " + std::to_string(bits_) + " bits; 2 to 8 are read");
  }
  const PartView part(desc, "scale", files);
  part.require_dtype({"f32", "f16", "bf16"});
  const uint64_t n = part.elements();
  if (n != 1 && (n == 0 || n % extent.rows != 0)) {
    fail_corrupt(desc.name,
                 std::to_string(n) + " scales do not fit its " + std::to_string(extent.rows) + " rows");
  }
  if (n != 1) groups_ = n / extent.rows;
  if (groups_ > extent.cols) fail_corrupt(desc.name, "has more scales in a row than columns");
  if (desc.group_size < 0) fail_corrupt(desc.name, "has a negative group size");
  group_cols_ = groups_ == 1          ? extent.cols
                : desc.group_size > 0 ? static_cast<uint64_t>(desc.group_size)
                                      : ceil_div(extent.cols, groups_);
  if (ceil_div(extent.cols, group_cols_) != groups_) {
    fail_corrupt(desc.name, std::to_string(extent.cols) + " columns in groups of " +
                                std::to_string(group_cols_) + " do not make " + std::to_string(groups_) +
                                " scales a row");
  }
  scales_ = part.read_all_f32();
  if (!std::all_of(scales_.begin(), scales_.end(), [](float s) { return std::isfinite(s); }))
    fail_corrupt(desc.name, "has a scale that is not finite");
  if (desc.parts.contains("zero_point")) read_zeros(desc, extent, files);
  if (desc.parts.contains("g_idx")) read_column_groups(desc, extent, files);
}

void QuantParams::read_zeros(const TensorDesc& desc, Extent extent, std::span<const File> files) {
  const PartView part(desc, "zero_point", files);
  const uint64_t per_word = 32 / static_cast<uint64_t>(bits_);
  std::vector<int64_t> raw;
  if (part.dtype() == "f32" || part.dtype() == "f16" || part.dtype() == "bf16") {
    for (const float z : part.read_all_f32()) {
      if (!(std::fabs(z) <= 255.0f)) fail_corrupt(desc.name, "has a zero point outside its codes' range");
      raw.push_back(std::lrint(z));
    }
  } else {
    raw = part.read_all_integers();
  }
  const bool packed = part.dtype() == "i32" && raw.size() != scales_.size() &&
                      raw.size() == ceil_div(extent.rows, per_word) * groups_;
  if (!packed && raw.size() != scales_.size())
    fail_corrupt(desc.name, "has " + std::to_string(raw.size()) + " zero points for " +
                                std::to_string(scales_.size()) + " scales");
  const int half = 1 << (bits_ - 1);
  zeros_.resize(scales_.size());
  for (uint64_t i = 0; i < zeros_.size(); i++) {
    int64_t zero = raw[packed ? 0 : i];
    if (packed) {
      const uint64_t row = i / groups_, group = i % groups_;
      const auto word = static_cast<uint32_t>(raw[row / per_word * groups_ + group]);
      zero = static_cast<int64_t>((word >> (row % per_word * static_cast<uint64_t>(bits_))) &
                                  ((1u << bits_) - 1)) -
             half;
    }
    if (zero < -half || zero >= 2 * half)
      fail_corrupt(desc.name, "has a zero point outside its codes' range");
    zeros_[i] = static_cast<int16_t>(zero);
  }
  if (std::all_of(zeros_.begin(), zeros_.end(), [](int16_t z) { return z == 0; })) zeros_.clear();
}

void QuantParams::read_column_groups(const TensorDesc& desc, Extent extent, std::span<const File> files) {
  const std::vector<int64_t> raw = PartView(desc, "g_idx", files).read_all_integers();
  if (raw.size() != extent.cols) fail_corrupt(desc.name, "its g_idx has not one entry for each column");
  if (std::all_of(raw.begin(), raw.end(), [](int64_t g) { return g == -1; })) return;  // written, never set
  group_of_col_.resize(raw.size());
  for (uint64_t c = 0; c < raw.size(); c++) {
    if (raw[c] < 0 || static_cast<uint64_t>(raw[c]) >= groups_)
      fail_corrupt(desc.name, "its g_idx names a group that does not exist");
    group_of_col_[c] = static_cast<uint32_t>(raw[c]);
  }
}

void QuantParams::dequantize(uint64_t row, uint64_t cols, const int8_t* codes, float* out) const {
  if (reordered()) {
    for (uint64_t c = 0; c < cols; c++) {
      out[c] = scale(row, group_of_col_[c]) * static_cast<float>(codes[c] - zero(row, group_of_col_[c]));
    }
    return;
  }
  for (uint64_t g = 0, c = 0; g < groups_; g++) {
    const float s = scale(row, g);
    const int z = zero(row, g);
    for (const uint64_t end = std::min(cols, c + group_cols_); c < end; c++)
      out[c] = s * static_cast<float>(codes[c] - z);
  }
}

}  // namespace filigree
