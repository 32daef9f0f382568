#include <immintrin.h>

#include "kernels/gemm/gemm_lanes.h"

namespace filigree {
namespace {

struct Floats {
  using T = float;
  using F = __m512;
  static constexpr int lanes = 16;
  static F zero() { return _mm512_setzero_ps(); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
};

struct Doubles {
  using T = double;
  using F = __m512d;
  static constexpr int lanes = 8;
  static F zero() { return _mm512_setzero_pd(); }
  static F load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, F a) { _mm512_storeu_pd(p, a); }
  static F set(double x) { return _mm512_set1_pd(x); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_pd(a, b, c); }
};

}  // namespace

// 24 sums, two vectors of b and a broadcast out of 32 registers.
GemmOps gemm_avx512() {
  return {"avx512", gemm_tile_of<Floats, 12, 2>(), gemm_tile_of<Doubles, 12, 2>(), {}, {}};
}

}  // namespace filigree
