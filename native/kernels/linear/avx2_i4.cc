#include "kernels/linear/avx2_i4.h"

namespace filigree::linear {
namespace {

// Pair sums of eight tiles in 16 bits, then widened: eight times 2 * 15 * 127 is below 2^15.
struct PairDot {
  template <int kTiles>
  struct Group {
    __m256i pairs = _mm256_setzero_si256(), sum = _mm256_setzero_si256();
    FILIGREE_INLINE void add(int tile, __m256i w, __m256i x) {
      pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w, x));
      if (kTiles > 8 && tile % 8 == 7) {
        sum = total();
        pairs = _mm256_setzero_si256();
      }
    }
    FILIGREE_INLINE void keep() { __asm__("" : "+x"(pairs)); }
    FILIGREE_INLINE __m256i total() const {
      return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
  };
};

}  // namespace

FILIGREE_I4_KERNELS(avx2, PairDot)

}  // namespace filigree::linear
