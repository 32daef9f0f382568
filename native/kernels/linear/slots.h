#pragma once

#include "kernels/linear/linear.h"

// The layout slots8 of i8 and i4 matrices: only nonzeros are multiplied. Eight rows (an octet; a panel has two) share a *window* of 16
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
// The two codes of slots 0 and 1, and of 2 and 3, are a safe pair: with activations as 0..255 their products' sum fits 16 bits.
// Any codes can be stored so: of two large ones of the same sign each takes a pair of its own.
// A window starts at column 0 and stays within kInputPadding-padded columns, so that 16 activations can be loaded at its start.
//
// i4, without minimum: a code and its place share a byte, and a window never leaves its group of columns, so that a group's sum is
// complete before its scale is applied. Stream of a pair of panels, at offsets[pair]: four octets, each for every group one byte,
// the number of steps, and the steps, kNibbleStepBytes each:
//   0   [row 0..7][4], low nibble the place, high nibble the code in two's complement, -8..7
//   32  columns the window moves on before the step, counted from the group's first column
// At 70 % zeros and groups of 128 columns 3.5 bits a weight: more than a bitmask's 2.3, less than the 4.1 of a dense matrix.
namespace filigree::linear {

inline constexpr uint32_t kWindow = 16;
inline constexpr size_t kSlotPairBytes = 98;
inline constexpr size_t kSlotPlaces = 64, kSlotMoves = 96;
inline constexpr size_t kSlotHeaderBytes = 8;
inline constexpr size_t kNibbleStepBytes = 33, kNibbleMove = 32;

static constexpr bool is_safe_pair(int a, int b) {
  const int high = (a > 0 ? a : 0) + (b > 0 ? b : 0), low = (a < 0 ? a : 0) + (b < 0 ? b : 0);
  return 255 * high <= INT16_MAX && 255 * low >= INT16_MIN;
}

// Last column a window may start at.
static constexpr uint32_t last_window(uint32_t cols) {
  return (cols + kInputPadding - 1) / kInputPadding * kInputPadding - kWindow;
}

// As expand_panel (expand.h).
void expand_slots8(const Matrix& matrix, uint32_t panel, float* codes, uint8_t* stored);

// Whether the `bytes` bytes are one unit's stream, so that a kernel given any of its activations stays inside them.
bool is_slots8_unit(const MatrixSpec& spec, const std::byte* stream, uint64_t bytes);

}  // namespace filigree::linear
