#include "kernels/linear/avx2_i8.h"

namespace filigree::linear {
namespace {

// maddubs takes one unsigned operand and saturates its pair sums: |x| by sign(w, x) stays within 2 * 127 * 127 and is exact, as is
// |w| by sign(x, w), which suits weights that several tokens share.
struct SignDot {
  static constexpr int kBias = 0;
  static constexpr uint32_t kFlip = 0;
  static FILIGREE_INLINE __m256i byte(__m256i x) { return _mm256_abs_epi8(x); }
  static FILIGREE_INLINE __m256i add(__m256i acc, __m256i magnitudes, __m256i signed_bytes) {
    const __m256i pairs = _mm256_maddubs_epi16(magnitudes, signed_bytes);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static FILIGREE_INLINE __m256i one(__m256i acc, __m256i w, __m256i x, __m256i b) {
    return add(acc, b, _mm256_sign_epi8(w, x));
  }
  struct Weights {
    __m256i w, magnitudes;
  };
  static FILIGREE_INLINE Weights load(__m256i w) { return {w, _mm256_abs_epi8(w)}; }
  static FILIGREE_INLINE __m256i many(__m256i acc, const Weights& w, __m256i x) {
    return add(acc, w.magnitudes, _mm256_sign_epi8(x, w.w));
  }
};

}  // namespace

FILIGREE_I8_KERNELS(avx2, SignDot)

}  // namespace filigree::linear
