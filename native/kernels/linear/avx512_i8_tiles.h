#pragma once
// i8 weights by vpdpbusd, which wants one unsigned factor: activations are biased by 128 into the workspace and the bias leaves
// again through the precomputed sum of each row's codes. Wrap-around of the 32-bit sums is harmless, the final value fits.
#include "kernels/linear/avx512_tiles.h"

namespace filigree::linear {
namespace {

struct I8 {
  static constexpr size_t kMaskBytes = 8;
  static uint64_t take(const std::byte* masks, size_t tile) {
    uint64_t bits;
    __builtin_memcpy(&bits, masks + 8 * tile, 8);
    return bits;
  }
  static size_t count(uint64_t bits) { return static_cast<size_t>(__builtin_popcountll(bits)); }
  static __m512i expand(uint64_t bits, const std::byte*, const std::byte* at, int) {
    return _mm512_maskz_expand_epi8(bits, _mm512_loadu_si512(at));
  }
  static __m512i dot(__m512i acc, __m512i w, __m512i x) { return _mm512_dpbusd_epi32(acc, x, w); }
  static __m512 finish(__m512i acc, const Matrix& m, const Input& in, uint32_t panel, uint32_t token) {
    const __m512i bias = _mm512_slli_epi32(_mm512_loadu_si512(m.code_sums + panel * kPanelRows), 7);
    return scale(_mm512_sub_epi32(acc, bias), m, in, panel, token);
  }
  // The exact sums as results.
  static __m512 scale(__m512i sums, const Matrix& m, const Input& in, uint32_t panel, uint32_t token) {
    const __m512 scaled =
        _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(m.row_scales + panel * kPanelRows));
    return _mm512_mul_ps(scaled, _mm512_set1_ps(in.scales[token]));
  }
};

// Bytes between biased tokens: whole cache lines, an odd number of them, so that tokens do not collide in L1.
constexpr size_t biased_stride(const MatrixSpec& m) { return ((padded_cols(m) + 63) / 64 | 1) * 64; }
constexpr size_t biased_bytes(const MatrixSpec& m, uint32_t tokens) { return biased_stride(m) * tokens; }

inline Dwords bias(const Matrix& m, const Input& in, std::byte* to) {
  const size_t stride = biased_stride(m), cols = padded_cols(m);
  const __m512i half = _mm512_set1_epi8(static_cast<char>(0x80));
  for (uint32_t t = 0; t < in.tokens; ++t) {
    const int8_t* row = in.i8 + t * in.stride;
    // Rows are readable to a multiple of kInputPadding = 128.
    for (size_t k = 0; k < cols; k += 64)
      _mm512_store_si512(to + t * stride + k, _mm512_xor_si512(_mm512_loadu_si512(row + k), half));
  }
  return {to, stride};
}

}  // namespace
}  // namespace filigree::linear
