#include "kernels/linear/avx2_i4.h"

namespace filigree::linear {
namespace {

struct VnniDot {
  template <int kTiles>
  struct Group {
    __m256i sum = _mm256_setzero_si256();
    FILIGREE_INLINE void add(int, __m256i w, __m256i x) { sum = _mm256_dpbusd_avx_epi32(sum, w, x); }
    FILIGREE_INLINE void keep() { __asm__("" : "+x"(sum)); }
    FILIGREE_INLINE __m256i total() const { return sum; }
  };
};

}  // namespace

FILIGREE_I4_KERNELS(avxvnni, VnniDot)

}  // namespace filigree::linear
