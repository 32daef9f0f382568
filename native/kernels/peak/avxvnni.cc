#include <immintrin.h>

#include "kernels/peak/chains.h"

namespace filigree {

int64_t peak_avxvnni_i8(uint64_t rounds) {
  __m256i x = _mm256_set1_epi8(1);
  FILIGREE_OPAQUE(x);
  return run_chains(
      rounds, _mm256_setzero_si256(), [&](__m256i a) { return _mm256_dpbusd_avx_epi32(a, x, x); },
      [](__m256i a) { return static_cast<int64_t>(_mm256_cvtsi256_si32(a)); });
}

}  // namespace filigree
