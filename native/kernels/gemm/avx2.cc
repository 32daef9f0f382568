#include <immintrin.h>

#include "kernels/gemm/gemm_lanes.h"

namespace filigree {
namespace {

struct Floats {
  using T = float;
  using F = __m256;
  static constexpr int lanes = 8;
  static F zero() { return _mm256_setzero_ps(); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F a) { _mm256_storeu_ps(p, a); }
  static F set(float x) { return _mm256_set1_ps(x); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
};

struct Doubles {
  using T = double;
  using F = __m256d;
  static constexpr int lanes = 4;
  static F zero() { return _mm256_setzero_pd(); }
  static F load(const double* p) { return _mm256_loadu_pd(p); }
  static void store(double* p, F a) { _mm256_storeu_pd(p, a); }
  static F set(double x) { return _mm256_set1_pd(x); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_pd(a, b, c); }
};

}  // namespace

// 12 sums, two vectors of b and a broadcast out of 16 registers.
GemmOps gemm_avx2() { return {"avx2", gemm_tile_of<Floats, 6, 2>(), gemm_tile_of<Doubles, 6, 2>(), {}, {}}; }

}  // namespace filigree
