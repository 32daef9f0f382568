#include "kernels/linear/avx2_i8.h"

namespace filigree::linear {
namespace {

// vpdpbusd multiplies unsigned by signed without saturation: x + 128 by w, the excess being 128 times the row's sum of codes.
struct VnniDot {
  static constexpr int kBias = 128;
  static constexpr uint32_t kFlip = 0x80808080u;  // x + 128 as a byte
  static FILIGREE_INLINE __m256i byte(__m256i x) {
    return _mm256_xor_si256(x, _mm256_set1_epi8(static_cast<char>(0x80)));
  }
  static FILIGREE_INLINE __m256i one(__m256i acc, __m256i w, __m256i, __m256i b) {
    return _mm256_dpbusd_avx_epi32(acc, b, w);
  }
  using Weights = __m256i;
  static FILIGREE_INLINE Weights load(__m256i w) { return w; }
  static FILIGREE_INLINE __m256i many(__m256i acc, Weights w, __m256i x) {
    return _mm256_dpbusd_avx_epi32(acc, x, w);
  }
};

}  // namespace

FILIGREE_I8_KERNELS(avxvnni, VnniDot)

}  // namespace filigree::linear
