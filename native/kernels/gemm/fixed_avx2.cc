#include "kernels/gemm/fixed_avx2.h"

namespace filigree {
namespace {

struct Words : Words8 {
  static I dot(I acc, I a, I b) { return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
};

}  // namespace

// 8 sums, two vectors of b, a broadcast and a product out of 16 registers.
FixedGemm fixed_gemm_avx2() { return fixed_gemm_of<Words, Avx2, 4, 2>(); }

}  // namespace filigree
