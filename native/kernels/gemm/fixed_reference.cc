#include "kernels/gemm/fixed_lanes.h"
#include "kernels/simd/scalar.h"

namespace filigree {
namespace {

struct Words {
  using I = int32_t;
  using F = float;
  static constexpr int lanes = 1;
  static I zero() { return 0; }
  static I load(const uint32_t* p) { return static_cast<I>(*p); }
  static I set(uint32_t x) { return static_cast<I>(x); }
  static I dot(I acc, I a, I b) {
    return acc + static_cast<int16_t>(a) * static_cast<int16_t>(b) + (a >> 16) * (b >> 16);
  }
  static F to_float(I a) { return static_cast<float>(a); }
  static F zero_float() { return 0; }
  static F load_float(const float* p) { return *p; }
  static F set_float(float x) { return x; }
  static void store(float* p, F a) { *p = a; }
  static F mul(F a, F b) { return a * b; }
  static F fma(F a, F b, F c) { return __builtin_fmaf(a, b, c); }
};

}  // namespace

FixedGemm fixed_gemm_scalar() { return fixed_gemm_of<Words, Scalar, 4, 16>(); }

}  // namespace filigree
