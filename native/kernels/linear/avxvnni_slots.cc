#include "kernels/linear/avx2_slots.h"

namespace filigree::linear {
namespace {

// x + 128 by w; the excess is 128 times the row's sum of codes.
struct VnniDot {
  static constexpr int kBias = 128;
  static constexpr uint32_t kFlip = 0x80808080u;
  using Weights = __m256i;
  static FILIGREE_INLINE Weights load(__m256i w) { return w; }
  static FILIGREE_INLINE __m256i dot(__m256i acc, Weights w, __m256i x) {
    return _mm256_dpbusd_avx_epi32(acc, x, w);
  }
};

}  // namespace

FILIGREE_SLOTS_KERNEL(avxvnni, VnniDot)

}  // namespace filigree::linear
