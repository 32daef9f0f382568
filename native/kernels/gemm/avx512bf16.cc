#include <immintrin.h>

#include <cstring>

#include "kernels/gemm/gemm.h"

namespace filigree {
namespace {

constexpr int kRows = 12, kVectors = 2;

void tile(size_t pairs, const uint16_t* a, const uint16_t* b, float* c) {
  __m512 sum[kRows][kVectors];
  for (int i = 0; i < kRows; ++i)
    for (int v = 0; v < kVectors; ++v) sum[i][v] = _mm512_setzero_ps();
  for (size_t p = 0; p < pairs; ++p, a += 2 * kRows, b += 32 * kVectors) {
    __m512bh right[kVectors];
    for (int v = 0; v < kVectors; ++v) right[v] = (__m512bh)_mm512_loadu_si512(b + 32 * v);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      int pair;
      std::memcpy(&pair, a + 2 * i, sizeof pair);
      const __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], left, right[v]);
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(c + (i * kVectors + v) * 16, sum[i][v]);
}

}  // namespace

GemmTileBf16 gemm_tile_avx512bf16() { return {kRows, 16 * kVectors, tile}; }

}  // namespace filigree
