#include "kernels/linear/neon_integer.h"

namespace filigree::linear {
namespace {

// sdot by a lane: a register of activations holds four tiles' columns of a token.
struct LaneDot {
  static void arrange(int8_t*, size_t) {}
  template <int kLane>
  static FILIGREE_INLINE void tile(const int8_t* w, const int8x16_t* b, int32x4_t (*acc)[4]) {
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) {
      const int8x16_t quad = vld1q_s8(w + 64 * kLane + 16 * g);
#pragma GCC unroll 8
      for (uint32_t i = 0; i < kTokenTile; ++i) acc[i][g] = vdotq_laneq_s32(acc[i][g], quad, b[i], kLane);
    }
  }
  static FILIGREE_INLINE void sum(const int8_t* block, const int8_t* const* x, size_t tiles,
                                  int32x4_t (*acc)[4]) {
    for (size_t t = 0; t < tiles; t += 4) {
      int8x16_t b[kTokenTile];
#pragma GCC unroll 8
      for (uint32_t i = 0; i < kTokenTile; ++i) b[i] = vld1q_s8(x[i] + 4 * t);
      tile<0>(block + t * 64, b, acc);
      tile<1>(block + t * 64, b, acc);
      tile<2>(block + t * 64, b, acc);
      tile<3>(block + t * 64, b, acc);
    }
  }
};

}  // namespace

FILIGREE_BATCH_KERNELS(neon, LaneDot)

#define FILIGREE_DECODE_KERNEL(name, driver, ...)                                               \
  void name(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, size_t, \
            std::byte*) {                                                                       \
    driver<__VA_ARGS__>(m, in, begin, end, out);                                                \
  }
FILIGREE_DECODE_KERNEL(neon_i8_dense_decode, decode_i8, DenseI8)
FILIGREE_DECODE_KERNEL(neon_i8_bitmask_decode, decode_i8, BitmaskI8)
FILIGREE_DECODE_KERNEL(neon_i4g32_dense_decode, decode_i4, DenseI4<8>)
FILIGREE_DECODE_KERNEL(neon_i4g32_bitmask_decode, decode_i4, BitmaskI4<8>)
FILIGREE_DECODE_KERNEL(neon_i4g128_dense_decode, decode_i4, DenseI4<32>)
FILIGREE_DECODE_KERNEL(neon_i4g128_bitmask_decode, decode_i4, BitmaskI4<32>)

}  // namespace filigree::linear
