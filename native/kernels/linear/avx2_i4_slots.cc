#include "kernels/linear/avx2_i4_slots.h"

namespace filigree::linear {
namespace {

// Pair sums of 2 * 8 * 127: sixteen of them fit 16 bits.
struct PairDot {
  static constexpr uint32_t kSteps = 16;
  struct Sum {
    __m256i pairs = _mm256_setzero_si256();
    FILIGREE_INLINE void add(__m256i magnitudes, __m256i signed_bytes) {
      pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(magnitudes, signed_bytes));
    }
    FILIGREE_INLINE __m256i total() const { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
  };
};

}  // namespace

FILIGREE_I4_SLOTS_KERNELS(avx2, PairDot)

}  // namespace filigree::linear
