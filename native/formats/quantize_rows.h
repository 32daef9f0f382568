#pragma once

#include <cstddef>
#include <cstdint>

namespace filigree {

// Rounding of weights to the engine's integer formats, when the file does not hold them already. Ties to even; the same bits
// on every machine.

// Symmetric, per row: scale = max |x| / 127, codes in [-127, 127]. A row too small for that (max |x| < 2^-120) gets scale 0 and
// codes 0.
void quantize_row_i8(const float* x, size_t n, int8_t* codes, float* scale);

// One group of a symmetric 4-bit row: the f16 scale that leaves the smallest squared error among 15 clipping points, each
// refined to its least-squares scale (make_qx_quants of llama.cpp, unweighted). 0 for a group of zeros.
uint16_t search_i4_scale(const float* x, size_t n);

// Nearest codes in [-8, 7] to x / scale.
void quantize_group_i4(const float* x, size_t n, uint16_t scale_f16, int8_t* codes);

// Whether all n values are finite.
bool all_finite(const float* x, size_t n);

}  // namespace filigree
