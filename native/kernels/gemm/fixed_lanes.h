#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gemm/fixed.h"

// Written once and compiled for each instruction set: every variant gives the same bits. What packs is plain loops, which the compiler
// turns into the instruction set's.

namespace filigree {
namespace {

// V: I, F (vectors of words and of floats), lanes; load, set, zero of words, dot (acc + two products of 16 bits), to_float; load,
// set, store, mul, fma, zero_float of floats.
template <class V, int Rows, int Vectors>
void fixed_tile(size_t pairs, const uint32_t* a, size_t a_step, const uint32_t* b, const float* a_scales,
                const float* b_scales, bool add, float* c, size_t stride) {
  typename V::I sum[Rows][Vectors];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[i][v] = V::zero();
  }
  for (size_t p = 0; p < pairs; ++p, a += a_step, b += Vectors * V::lanes) {
    typename V::I right[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) right[v] = V::load(b + v * V::lanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const typename V::I left = V::set(a[i]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[i][v] = V::dot(sum[i][v], left, right[v]);
    }
  }
  // GCC keeps the sums in registers only where what finishes them works on a copy.
  typename V::I total[Rows][Vectors];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) total[i][v] = sum[i][v];
  }
  for (int i = 0; i < Rows; ++i) {
    for (int v = 0; v < Vectors; ++v) {
      float* out = c + static_cast<size_t>(i) * stride + v * V::lanes;
      const typename V::F scale = V::mul(V::set_float(a_scales[i]), V::load_float(b_scales + v * V::lanes));
      const typename V::F before = add ? V::load_float(out) : V::zero_float();
      V::store(out, V::fma(V::to_float(total[i][v]), scale, before));
    }
  }
}

// The scale of a line of so large a norm (its square) and so large an element.
inline float fixed_scale(float squares, float largest) {
  // Squares of what is smaller than that vanish: there the norm is bounded by the largest of at most kFixedDepth elements.
  const float norm = squares <= 1e-30f ? 16.0f * largest : std::sqrt(squares);
  const float scale = std::max(norm / kFixedNorm, largest / kFixedLargest);
  return std::isfinite(norm) ? (scale > 1e-37f ? scale : 0.0f) : NAN;
}
inline float fixed_inverse(float scale) { return scale > 0 ? 1.0f / scale : 0.0f; }

// x times inverse to the nearest integer, ties to even, for results below 2^22; 0 where it is not a number.
inline int32_t fixed_code(float x, float inverse) {
  constexpr float kShift = 12582912.0f;
  const float code = (x * inverse + kShift) - kShift;
  return static_cast<int32_t>(code == code ? code : 0.0f);
}

// Norms add up in 16 lanes and then by halves, whatever the instruction set. L: of kernels/simd.
template <class L>
struct FixedNorms {
  typename L::F squares = L::zero(), largest = L::zero();
  void add(typename L::F x) {
    squares = L::add(squares, L::mul(x, x));
    // Of the two operands that which is not a number never comes out.
    largest = L::max(L::max(L::sub(L::zero(), x), x), largest);
  }
};

template <class L>
void fixed_pack_rows(const float* x, size_t stride, size_t count, size_t depth, size_t width, uint32_t* panel,
                     float* scales) {
  const size_t pairs = (depth + 1) / 2;
  alignas(64) int16_t codes[kFixedDepth];
  for (size_t i = 0; i < width; ++i) {
    scales[i] = 0;
    if (i < count) {
      const float* line = x + i * stride;
      FixedNorms<L> norms;
      size_t p = 0;
      for (; p + 16 <= depth; p += 16) norms.add(L::load(line + p));
      if (p < depth) norms.add(L::load_n(line + p, depth - p));
      scales[i] = fixed_scale(L::reduce_add(norms.squares), L::reduce_max(norms.largest));
    }
    if (!(scales[i] > 0)) {
      for (size_t p = 0; p < pairs; ++p) panel[p * width + i] = 0;
      continue;
    }
    const float inverse = fixed_inverse(scales[i]);
    const float* line = x + i * stride;
    for (size_t p = 0; p < depth; ++p) codes[p] = static_cast<int16_t>(fixed_code(line[p], inverse));
    if (depth % 2 != 0) codes[depth] = 0;
    for (size_t p = 0; p < pairs; ++p) std::memcpy(panel + p * width + i, codes + 2 * p, sizeof(uint32_t));
  }
}

template <class L, int Width>
void fixed_pack_columns(const float* x, size_t stride, size_t count, size_t depth, uint32_t* panel,
                        float* scales, float* largest) {
  constexpr int kVectors = Width / 16;
  // Columns that are not there are read as zeros, from here.
  alignas(64) float squares[Width], most[Width], inverse[Width], edge[2][Width] = {};
  const auto line_of = [&](size_t p, int half) -> const float* {
    if (p >= depth) return nullptr;
    if (count == Width) return x + p * stride;
    std::copy_n(x + p * stride, count, edge[half]);
    return edge[half];
  };
  FixedNorms<L> norms[kVectors];
  for (size_t p = 0; p < depth; ++p) {
    const float* line = line_of(p, 0);
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) norms[v].add(L::load(line + v * 16));
  }
  for (int v = 0; v < kVectors; ++v) {
    L::store(squares + v * 16, norms[v].squares);
    L::store(most + v * 16, norms[v].largest);
  }
  for (int i = 0; i < Width; ++i) {
    scales[i] = fixed_scale(squares[i], most[i]);
    inverse[i] = fixed_inverse(scales[i]);
  }
  for (size_t i = 0; i < count; ++i) largest[i] = std::max(largest[i], most[i]);
  for (size_t p = 0; p < depth; p += 2, panel += Width) {
    const float *first = line_of(p, 0), *second = line_of(p + 1, 1);
    if (second == nullptr) {
      for (int i = 0; i < Width; ++i)
        panel[i] = static_cast<uint32_t>(fixed_code(first[i], inverse[i])) & 0xFFFFu;
      break;
    }
    for (int i = 0; i < Width; ++i) {
      panel[i] = (static_cast<uint32_t>(fixed_code(first[i], inverse[i])) & 0xFFFFu) |
                 static_cast<uint32_t>(fixed_code(second[i], inverse[i])) << 16;
    }
  }
}

template <class V, class L, int Rows, int Vectors>
constexpr FixedGemm fixed_gemm_of() {
  constexpr int kCols = Vectors * V::lanes;
  static_assert(kCols % Rows == 0 && kCols % 16 == 0);
  return {Rows, kCols, fixed_tile<V, Rows, Vectors>, fixed_pack_rows<L>, fixed_pack_columns<L, kCols>};
}

}  // namespace
}  // namespace filigree
