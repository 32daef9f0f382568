#include "kernels/linear/avx2_slots.h"

namespace filigree::linear {
namespace {

// x + 128 by w: a pair of codes never saturates maddubs (slots.h), so that no sign need be moved between the factors. The excess is
// 128 times the row's sum of codes.
struct UnsignedDot {
  static constexpr int kBias = 128;
  static constexpr uint32_t kFlip = 0x80808080u;  // x + 128 as a byte
  using Weights = __m256i;
  static FILIGREE_INLINE Weights load(__m256i w) { return w; }
  static FILIGREE_INLINE __m256i dot(__m256i acc, Weights w, __m256i x) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)));
  }
};

}  // namespace

FILIGREE_SLOTS_KERNEL(avx2, UnsignedDot)

}  // namespace filigree::linear
