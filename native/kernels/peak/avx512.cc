#include <immintrin.h>

#include "kernels/peak/chains.h"

namespace filigree {

int64_t peak_avx512_f32(uint64_t rounds) {
  __m512 x = _mm512_set1_ps(0.0f);
  FILIGREE_OPAQUE(x);
  return run_chains(
      rounds, _mm512_setzero_ps(), [&](__m512 a) { return _mm512_fmadd_ps(x, x, a); },
      [](__m512 a) { return static_cast<int64_t>(_mm512_cvtss_f32(a)); });
}

}  // namespace filigree
