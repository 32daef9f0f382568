#include <immintrin.h>

#include "kernels/peak/chains.h"

namespace filigree {

int64_t peak_avx512vnni_i8(uint64_t rounds) {
  __m512i x = _mm512_set1_epi8(1);
  FILIGREE_OPAQUE(x);
  return run_chains(
      rounds, _mm512_setzero_si512(), [&](__m512i a) { return _mm512_dpbusd_epi32(a, x, x); },
      [](__m512i a) { return static_cast<int64_t>(_mm_cvtsi128_si32(_mm512_castsi512_si128(a))); });
}

}  // namespace filigree
