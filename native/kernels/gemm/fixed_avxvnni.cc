#include "kernels/gemm/fixed_avx2.h"

namespace filigree {
namespace {

struct Words : Words8 {
  static I dot(I acc, I a, I b) { return _mm256_dpwssd_avx_epi32(acc, a, b); }
};

}  // namespace

FixedGemm fixed_gemm_avxvnni() { return fixed_gemm_of<Words, Avx2, 4, 2>(); }

}  // namespace filigree
