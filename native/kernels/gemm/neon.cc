#include <arm_neon.h>

#include "kernels/gemm/gemm_lanes.h"

namespace filigree {
namespace {

struct Floats {
  using T = float;
  using F = float32x4_t;
  static constexpr int lanes = 4;
  static F zero() { return vdupq_n_f32(0); }
  static F load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, F a) { vst1q_f32(p, a); }
  static F set(float x) { return vdupq_n_f32(x); }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
};

struct Doubles {
  using T = double;
  using F = float64x2_t;
  static constexpr int lanes = 2;
  static F zero() { return vdupq_n_f64(0); }
  static F load(const double* p) { return vld1q_f64(p); }
  static void store(double* p, F a) { vst1q_f64(p, a); }
  static F set(double x) { return vdupq_n_f64(x); }
  static F fma(F a, F b, F c) { return vfmaq_f64(c, a, b); }
};

}  // namespace

// 24 sums, four vectors of b and a broadcast out of 32 registers.
GemmOps gemm_neon() { return {"neon", gemm_tile_of<Floats, 6, 4>(), gemm_tile_of<Doubles, 6, 4>(), {}, {}}; }

}  // namespace filigree
