#include "kernels/linear/avx2_slots.h"

namespace filigree::linear {
namespace {

// |w| by sign(x, w): exact in maddubs, see avx2_i8.cc.
struct SignDot {
  static constexpr int kBias = 0;
  static constexpr uint32_t kFlip = 0;
  struct Weights {
    __m256i w, magnitudes;
  };
  static FILIGREE_INLINE Weights load(__m256i w) { return {w, _mm256_abs_epi8(w)}; }
  static FILIGREE_INLINE __m256i dot(__m256i acc, const Weights& w, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(w.magnitudes, _mm256_sign_epi8(x, w.w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

}  // namespace

FILIGREE_SLOTS_KERNEL(avx2, SignDot)

}  // namespace filigree::linear
