// bf16 weights by tdpbf16ps. It sums the even and the odd ones of 32 columns on their own before it adds both to the accumulator: near
// the order of vdpbf16ps, not equal to it, so where it exists all batch sizes use it or amx_bf16_stream.cc, which keeps its order.
#include "kernels/linear/amx_tiles.h"
#include "kernels/linear/avx512_bf16_tiles.h"

namespace filigree::linear {
namespace {

struct Bf16 : Bf16Tile {
  static constexpr size_t kRowBytes = kLoadBytes;
  static void multiply_0() { _tile_dpbf16ps(0, 4, 6); }
  static void multiply_1() { _tile_dpbf16ps(1, 4, 7); }
  static void multiply_2() { _tile_dpbf16ps(2, 5, 6); }
  static void multiply_3() { _tile_dpbf16ps(3, 5, 7); }
};

}  // namespace

size_t amx_bf16_workspace(const MatrixSpec& m, uint32_t tokens) {
  return amx_workspace(m, tokens, kLoadBytes);
}

void amx_bf16_dense(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                    size_t out_stride, std::byte* workspace) {
  run_tiles<Bf16, false>(m, in, in.bf16, in.stride * 2, begin, end, out, out_stride, workspace);
}
void amx_bf16_bitmask(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                      size_t out_stride, std::byte* workspace) {
  run_tiles<Bf16, true>(m, in, in.bf16, in.stride * 2, begin, end, out, out_stride, workspace);
}

}  // namespace filigree::linear
