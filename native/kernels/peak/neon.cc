#include <arm_neon.h>

#include "kernels/peak/chains.h"

namespace filigree {

int64_t peak_neon_f32(uint64_t rounds) {
  float32x4_t x = vdupq_n_f32(0.0f);
  FILIGREE_OPAQUE(x);
  return run_chains(
      rounds, vdupq_n_f32(0.0f), [&](float32x4_t a) { return vfmaq_f32(a, x, x); },
      [](float32x4_t a) { return static_cast<int64_t>(vgetq_lane_f32(a, 0)); });
}

int64_t peak_neon_i8(uint64_t rounds) {
  int8x16_t x = vdupq_n_s8(1);
  FILIGREE_OPAQUE(x);
  return run_chains(
      rounds, vdupq_n_s32(0), [&](int32x4_t a) { return vdotq_s32(a, x, x); },
      [](int32x4_t a) { return static_cast<int64_t>(vgetq_lane_s32(a, 0)); });
}

}  // namespace filigree
