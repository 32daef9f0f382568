#include "kernels/linear/avx2_i4_slots.h"

namespace filigree::linear {
namespace {

struct VnniDot {
  static constexpr uint32_t kSteps = 255;
  struct Sum {
    __m256i sum = _mm256_setzero_si256();
    FILIGREE_INLINE void add(__m256i magnitudes, __m256i signed_bytes) {
      sum = _mm256_dpbusd_avx_epi32(sum, magnitudes, signed_bytes);
    }
    FILIGREE_INLINE __m256i total() const { return sum; }
  };
};

}  // namespace

FILIGREE_I4_SLOTS_KERNELS(avxvnni, VnniDot)

}  // namespace filigree::linear
