#pragma once

#include <immintrin.h>

#include "kernels/gemm/fixed_lanes.h"
#include "kernels/simd/avx2.h"

namespace filigree {
namespace {

// All but dot().
struct Words8 {
  using I = __m256i;
  using F = __m256;
  static constexpr int lanes = 8;
  static I zero() { return _mm256_setzero_si256(); }
  static I load(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static I set(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static F to_float(I a) { return _mm256_cvtepi32_ps(a); }
  static F zero_float() { return _mm256_setzero_ps(); }
  static F load_float(const float* p) { return _mm256_loadu_ps(p); }
  static F set_float(float x) { return _mm256_set1_ps(x); }
  static void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace
}  // namespace filigree
