#pragma once

#include "cuda/platform.h"

namespace filigree::cuda {

// A dense matrix of codes as the CPU packs it (kernels/linear/linear.h, Layout::dense): the source from which every layout of
// the device is made. code(r, c) is the bf16's bits, or the signed code of i8 and i4 (without a minimum).
struct PanelCodes {
  Values kind;
  uint32_t rows, cols;
  uint32_t tiles;  // per panel of 16 rows: bf16 2 columns wide, i8 and i4 4
  const uint8_t* values;

  FILIGREE_HD int32_t code(uint32_t row, uint32_t col) const {
    if (row >= rows || col >= cols) return 0;
    const uint32_t panel = row / 16, r = row % 16;
    if (kind == Values::bf16) {
      const size_t at = (size_t{panel} * tiles + col / 2) * 32 + r * 2 + col % 2;
      const uint16_t bits = reinterpret_cast<const uint16_t*>(values)[at];
      return bits == 0x8000 ? 0 : bits;  // minus zero is no weight
    }
    if (kind == Values::i8) {
      const size_t at = (size_t{panel} * tiles + col / 4) * 64 + r * 4 + col % 4;
      return static_cast<int8_t>(values[at]);
    }
    // A byte holds a code of an even panel (low nibble) and the one of the odd panel that follows it.
    const size_t at = (size_t{panel / 2} * tiles + col / 4) * 64 + r * 4 + col % 4;
    return static_cast<int32_t>(panel % 2 ? values[at] >> 4 : values[at] & 15) - 8;
  }
};

// The same codes row by row: bf16 u16 or i8 [rows][cols], i4 one code a byte.
struct RowCodes {
  Values kind;
  uint32_t rows, cols;
  const void* values;

  FILIGREE_HD int32_t code(uint32_t row, uint32_t col) const {
    if (row >= rows || col >= cols) return 0;
    const size_t at = size_t{row} * cols + col;
    if (kind != Values::bf16) return static_cast<const int8_t*>(values)[at];
    const uint16_t bits = static_cast<const uint16_t*>(values)[at];
    return bits == 0x8000 ? 0 : bits;
  }
};

}  // namespace filigree::cuda
