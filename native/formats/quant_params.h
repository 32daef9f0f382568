#pragma once

#include <cstdint>
#include <vector>

#include "formats/part_view.h"

namespace filigree {

// Scales and zero points of compressed-tensors' integer formats: value = scale * (code - zero), code signed
// (-2^(bits-1) .. 2^(bits-1) - 1), one pair a tensor, a row, or a group of columns of a row.
class QuantParams {
 public:
  // Throws corrupt_data unless the parts' shapes fit rows, columns and group size, scales are finite, and
  // zero points and g_idx are in range.
  QuantParams(const TensorDesc& desc, Extent extent, std::span<const File> files);

  int bits() const { return bits_; }
  uint64_t groups() const { return groups_; }          // of a row
  uint64_t group_cols() const { return group_cols_; }  // the last may be shorter
  bool has_zero() const { return !zeros_.empty(); }
  bool reordered() const { return !group_of_col_.empty(); }

  float scale(uint64_t row, uint64_t group) const {
    return scales_[scales_.size() == 1 ? 0 : row * groups_ + group];
  }
  int zero(uint64_t row, uint64_t group) const {
    return zeros_.empty() ? 0 : zeros_[zeros_.size() == 1 ? 0 : row * groups_ + group];
  }

  // One row of signed codes to f32.
  void dequantize(uint64_t row, uint64_t cols, const int8_t* codes, float* out) const;

 private:
  void read_zeros(const TensorDesc& desc, Extent extent, std::span<const File> files);
  void read_column_groups(const TensorDesc& desc, Extent extent, std::span<const File> files);

  int bits_;
  uint64_t groups_ = 1, group_cols_ = 0;
  std::vector<float> scales_;           // 1 or rows * groups
  std::vector<int16_t> zeros_;          // empty, 1 or rows * groups
  std::vector<uint32_t> group_of_col_;  // activation ordering: empty or cols
};

}  // namespace filigree
