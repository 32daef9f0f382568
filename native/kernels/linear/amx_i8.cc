// i8 weights by tdpbssd: both factors are signed, so the exact sum needs no bias.
#include "kernels/linear/amx_tiles.h"
#include "kernels/linear/avx512_i8_tiles.h"

namespace filigree::linear {
namespace {

struct SignedI8 : I8, SignedBytes<kLoadBytes> {
  static __m512 finish(__m512i sums, const Matrix& m, const Input& in, uint32_t panel, uint32_t token) {
    return scale(sums, m, in, panel, token);
  }
};

}  // namespace

size_t amx_i8_workspace(const MatrixSpec& m, uint32_t tokens) { return amx_workspace(m, tokens, kLoadBytes); }

void amx_i8_dense(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                  size_t out_stride, std::byte* workspace) {
  run_tiles<SignedI8, false>(m, in, in.i8, in.stride, begin, end, out, out_stride, workspace);
}
void amx_i8_bitmask(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                    size_t out_stride, std::byte* workspace) {
  run_tiles<SignedI8, true>(m, in, in.i8, in.stride, begin, end, out, out_stride, workspace);
}

}  // namespace filigree::linear
