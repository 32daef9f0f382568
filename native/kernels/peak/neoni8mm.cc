#include <arm_neon.h>

#include "kernels/peak/chains.h"

namespace filigree {

int64_t peak_neoni8mm_i8(uint64_t rounds) {
  int8x16_t x = vdupq_n_s8(1);
  FILIGREE_OPAQUE(x);
  return run_chains(
      rounds, vdupq_n_s32(0), [&](int32x4_t a) { return vmmlaq_s32(a, x, x); },
      [](int32x4_t a) { return static_cast<int64_t>(vgetq_lane_s32(a, 0)); });
}

}  // namespace filigree
