#pragma once

#include <cstdint>
#include <vector>

#include "formats/part_view.h"

namespace filigree {

// compressed-tensors' bitmask: one bit per element, LSB first, rows padded to a byte, and the stored elements
// of each row one after the other. Where a row's elements begin is `row_offsets`, or row * cols / 2 for the
// 2:4 form, which has none.
//
// The mask is read with the rows; only the offsets are resident (8 bytes a row).
class Bitmask {
 public:
  // `row_align`: every row's elements begin at a multiple of it (2 for nibbles packed to bytes). Throws
  // corrupt_data unless offsets begin at 0, never fall, never advance by more than a row, and end within
  // `stored` elements.
  Bitmask(const TensorDesc& desc, Extent extent, std::span<const File> files, uint64_t stored,
          uint64_t row_align);

  uint64_t row_bytes() const { return ceil_div(extent_.cols, 8); }
  uint64_t offset(uint64_t row) const { return offsets_[row]; }

  // bits [n][row_bytes]. Throws corrupt_data if a row's bits are not as many as its offsets say, or lie past
  // its columns.
  void read(uint64_t row, uint64_t n, uint8_t* bits) const;

 private:
  const std::string name_;
  const Extent extent_;
  const uint64_t row_align_;
  const PartView mask_;
  std::vector<uint64_t> offsets_;  // rows + 1
};

// Calls body(column) for every set bit of one row, in order.
template <class Body>
void for_each_set_bit(const uint8_t* bits, uint64_t bytes, Body body) {
  for (uint64_t b = 0; b < bytes; b++) {
    for (uint32_t m = bits[b]; m != 0; m &= m - 1) body(b * 8 + static_cast<uint64_t>(__builtin_ctz(m)));
  }
}

}  // namespace filigree
