#pragma once

#include <cstddef>
#include <cstdint>

namespace filigree {

// Products in block floating point: 16-bit integers under one f32 scale for each line (a row of a, a column of b) of each block along
// k, sums exact in 32 bits. An instruction multiplies two pairs where an fma of f32 multiplies one number.
//
// A line x of a block has scale s = max(|x| / kFixedNorm, largest |x_p| / kFixedLargest), |x| its Euclidean norm, and codes x_p / s
// rounded to nearest even. By Cauchy and Schwarz no sum of products of two such lines leaves 32 bits, whatever is in them. The product
// of lines x and y is off by no more than |x| |y| sqrt(depth) / kFixedLargest, and by about |x| |y| / 2^17 where rounding errors are as
// good as random, however long the lines are.
inline constexpr size_t kFixedDepth = 256;     // of a block, at most
inline constexpr float kFixedNorm = 46300.0f;  // and sqrt(kFixedDepth) / 2 that rounding adds: below 2^15.5
inline constexpr float kFixedLargest = 32766.0f;

// A panel is [pair of neighbours along k][line], a pair in one word, its first number the low half. An odd depth ends in a zero.
struct FixedGemm {
  uint32_t rows = 0, cols = 0;  // of the tile; rows divides cols

  // c[i * stride + j] = fma(float(sum over p of a_p,i b_p,j), a_scales[i] * b_scales[j], c[i * stride + j] or, without `add`, 0) for
  // i < rows, j < cols. a: the first line's word of a panel with a_step words between pairs; b: a panel of cols lines.
  void (*run)(size_t pairs, const uint32_t* a, size_t a_step, const uint32_t* b, const float* a_scales,
              const float* b_scales, bool add, float* c, size_t stride) = nullptr;

  // Panels of `width` lines, of which `count` are there and the rest zero; depth <= kFixedDepth. A line that holds what is not finite
  // has the scale NaN, which every product with it then is. scales: [width].
  // Lines are rows of x, `stride` floats apart.
  void (*pack_rows)(const float* x, size_t stride, size_t count, size_t depth, size_t width, uint32_t* panel,
                    float* scales) = nullptr;
  // Lines are columns of x [depth], `stride` floats between its rows. width: cols. largest[count]: raised to the columns' magnitudes.
  void (*pack_columns)(const float* x, size_t stride, size_t count, size_t depth, uint32_t* panel,
                       float* scales, float* largest) = nullptr;
};

}  // namespace filigree
