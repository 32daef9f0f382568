#pragma once

#include "kernels/linear/linear.h"

// The layout slots8 of i8 matrices: only nonzeros are multiplied. Eight rows (an octet; a panel has two) share a *window* of 16
// consecutive columns; a step takes up to four nonzeros of each row out of the window: four codes, a multiple of zero where a row
// has fewer, and the place of each in the window. A byte shuffle of the 16 activations by these places lines them up with
// the codes, for every token of a batch with the same places. At 70 % zeros 4.9 bits a weight against a bitmask's 3.4, but
// a third of the multiplications of a dense matrix: the better layout wherever multiplying, not memory, is the limit.
//
// Stream of a panel, at offsets[panel] in values: two little-endian u32, the pairs of steps of each octet; then octet 0's pairs,
// then octet 1's. A pair of steps is kSlotPairBytes:
//   0   codes of step 0: [row 0..7][4]     32  codes of step 1
//   64  places: byte i, low nibble for byte i of step 0's codes, high nibble for step 1's
//   96  columns the window moves on before step 0, before step 1
// A window starts at column 0 and stays within kInputPadding-padded columns, so that 16 activations can be loaded at its start.
namespace filigree::linear {

inline constexpr uint32_t kWindow = 16;
inline constexpr size_t kSlotPairBytes = 98;
inline constexpr size_t kSlotPlaces = 64, kSlotMoves = 96;
inline constexpr size_t kSlotHeaderBytes = 8;

// Last column a window may start at.
static constexpr uint32_t last_window(uint32_t cols) {
  return (cols + kInputPadding - 1) / kInputPadding * kInputPadding - kWindow;
}

// As expand_panel (expand.h).
void expand_slots8(const Matrix& matrix, uint32_t panel, float* codes, uint8_t* stored);

// Whether the `bytes` bytes are one panel's stream, so that a kernel given any of its activations stays inside them.
bool is_slots8_panel(const std::byte* stream, uint64_t bytes, uint32_t cols);

}  // namespace filigree::linear
