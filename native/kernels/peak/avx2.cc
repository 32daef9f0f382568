#include <immintrin.h>

#include "kernels/peak/chains.h"

namespace filigree {

int64_t peak_avx2_f32(uint64_t rounds) {
  __m256 x = _mm256_set1_ps(0.0f);
  FILIGREE_OPAQUE(x);
  return run_chains(
      rounds, _mm256_setzero_ps(), [&](__m256 a) { return _mm256_fmadd_ps(x, x, a); },
      [](__m256 a) { return static_cast<int64_t>(_mm256_cvtss_f32(a)); });
}

int64_t peak_avx2_i8(uint64_t rounds) {
  __m256i x = _mm256_set1_epi8(1), w = _mm256_set1_epi8(1);
  const __m256i ones = _mm256_set1_epi16(1);
  FILIGREE_OPAQUE(w);
  return run_chains(
      rounds, _mm256_setzero_si256(),
      [&](__m256i a) {
        FILIGREE_OPAQUE(x);  // in every step, or the sign is taken once for all
        __m256i sign = _mm256_sign_epi8(x, w);
        FILIGREE_OPAQUE(sign);
        __m256i pairs = _mm256_maddubs_epi16(w, sign);
        FILIGREE_OPAQUE(pairs);
        return _mm256_add_epi32(a, _mm256_madd_epi16(pairs, ones));
      },
      [](__m256i a) { return static_cast<int64_t>(_mm256_cvtsi256_si32(a)); });
}

}  // namespace filigree
