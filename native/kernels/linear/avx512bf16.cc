// bf16 weights by vdpbf16ps, pairs in ascending k. It flushes denormals and rounds twice a pair: near the f32 order, not equal
// to it, so all batch sizes use it where it exists.
#include "kernels/linear/avx512_bf16_tiles.h"

namespace filigree::linear {
namespace {

struct Paired : Bf16Tile {
  static __m512i dot(__m512i acc, __m512i w, __m512i x) {
    return _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(acc), reinterpret_cast<__m512bh>(w),
                                                reinterpret_cast<__m512bh>(x)));
  }
};

}  // namespace

void avx512bf16_dense_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                             size_t out_stride, std::byte*) {
  run_stream<Paired, false>(m, in, Paired::dwords(in), begin, end, out, out_stride);
}
void avx512bf16_bitmask_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                               size_t out_stride, std::byte*) {
  run_stream<Paired, true>(m, in, Paired::dwords(in), begin, end, out, out_stride);
}
void avx512bf16_dense_chunked(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                              size_t out_stride, std::byte* workspace) {
  run_chunked<Paired, false>(m, in, Paired::dwords(in), begin, end, out, out_stride, workspace);
}
void avx512bf16_bitmask_chunked(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                size_t out_stride, std::byte* workspace) {
  run_chunked<Paired, true>(m, in, Paired::dwords(in), begin, end, out, out_stride, workspace);
}

}  // namespace filigree::linear
