#include "kernels/linear/neon_integer.h"

namespace filigree::linear {
namespace {

// smmla multiplies two rows by two tokens over eight columns: twice sdot's products an instruction.
struct MatrixDot {
  // Pairs of tiles to registers of two rows by eight columns: row pairs 0..7.
  static void arrange(int8_t* block, size_t tiles) {
    for (size_t t = 0; t < tiles; t += 2, block += 128) {
      int32x4_t pairs[8];
#pragma GCC unroll 8
      for (int g = 0; g < 4; ++g) {
        const int32x4_t even = vreinterpretq_s32_s8(vld1q_s8(block + 16 * g));
        const int32x4_t odd = vreinterpretq_s32_s8(vld1q_s8(block + 64 + 16 * g));
        pairs[2 * g] = vzip1q_s32(even, odd);
        pairs[2 * g + 1] = vzip2q_s32(even, odd);
      }
#pragma GCC unroll 8
      for (int p = 0; p < 8; ++p) vst1q_s8(block + 16 * p, vreinterpretq_s8_s32(pairs[p]));
    }
  }
  static FILIGREE_INLINE void sum(const int8_t* block, const int8_t* const* x, size_t tiles,
                                  int32x4_t (*acc)[4]) {
    int32x4_t square[8][2];  // [row pair][token pair]: {r0 t0, r0 t1, r1 t0, r1 t1}
    for (auto& pair : square) pair[0] = pair[1] = vdupq_n_s32(0);
    for (size_t t = 0; t < tiles; t += 2) {
      const int8x16_t b0 = vcombine_s8(vld1_s8(x[0] + 4 * t), vld1_s8(x[1] + 4 * t));
      const int8x16_t b1 = vcombine_s8(vld1_s8(x[2] + 4 * t), vld1_s8(x[3] + 4 * t));
#pragma GCC unroll 8
      for (int p = 0; p < 8; ++p) {
        const int8x16_t w = vld1q_s8(block + t * 64 + 16 * p);
        square[p][0] = vmmlaq_s32(square[p][0], w, b0);
        square[p][1] = vmmlaq_s32(square[p][1], w, b1);
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) {
#pragma GCC unroll 8
      for (int i = 0; i < 2; ++i) {
        const int32x4_t upper = square[2 * g][i], lower = square[2 * g + 1][i];
        acc[2 * i][g] = vaddq_s32(acc[2 * i][g], vuzp1q_s32(upper, lower));
        acc[2 * i + 1][g] = vaddq_s32(acc[2 * i + 1][g], vuzp2q_s32(upper, lower));
      }
    }
  }
};

}  // namespace

FILIGREE_BATCH_KERNELS(neoni8mm, MatrixDot)

}  // namespace filigree::linear
