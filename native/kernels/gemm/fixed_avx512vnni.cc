#include <immintrin.h>

#include "kernels/gemm/fixed_lanes.h"
#include "kernels/simd/avx512.h"

namespace filigree {
namespace {

struct Words {
  using I = __m512i;
  using F = __m512;
  static constexpr int lanes = 16;
  static I zero() { return _mm512_setzero_si512(); }
  static I load(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static I set(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static I dot(I acc, I a, I b) { return _mm512_dpwssd_epi32(acc, a, b); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static F zero_float() { return _mm512_setzero_ps(); }
  static F load_float(const float* p) { return _mm512_loadu_ps(p); }
  static F set_float(float x) { return _mm512_set1_ps(x); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
};

}  // namespace

// 16 sums: as many as start within an instruction's five cycles, and more. A sum more to each broadcast would make panels of 48 lines.
FixedGemm fixed_gemm_avx512vnni() { return fixed_gemm_of<Words, Avx512, 8, 2>(); }

}  // namespace filigree
