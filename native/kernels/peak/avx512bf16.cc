#include <immintrin.h>

#include "kernels/peak/chains.h"

namespace filigree {

int64_t peak_avx512bf16_bf16(uint64_t rounds) {
  __m512i x = _mm512_set1_epi16(0);
  FILIGREE_OPAQUE(x);
  return run_chains(
      rounds, _mm512_setzero_ps(),
      [&](__m512 a) {
        return _mm512_dpbf16_ps(a, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(x));
      },
      [](__m512 a) { return static_cast<int64_t>(_mm512_cvtss_f32(a)); });
}

}  // namespace filigree
