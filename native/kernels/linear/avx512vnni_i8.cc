// i8 weights, dense and bitmask: tiles through registers for a batch, for a dense prefill blocks of four panels that stay in cache. An
// expanded tile is cheaper to make again for every six tokens than to write and read back, until avx512vnni_i8_gather.cc pays.
#include "kernels/linear/avx512_i8_tiles.h"

namespace filigree::linear {

size_t avx512vnni_i8_stream_workspace(const MatrixSpec& m, uint32_t tokens) {
  return biased_bytes(m, tokens);
}
size_t avx512vnni_i8_chunk_workspace(const MatrixSpec& m, uint32_t tokens) {
  return biased_bytes(m, tokens) + chunked_workspace(tokens);
}

void avx512vnni_i8_dense_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                size_t out_stride, std::byte* workspace) {
  run_stream<I8, false>(m, in, bias(m, in, workspace), begin, end, out, out_stride);
}
void avx512vnni_i8_bitmask_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                  size_t out_stride, std::byte* workspace) {
  run_stream<I8, true>(m, in, bias(m, in, workspace), begin, end, out, out_stride);
}
void avx512vnni_i8_dense_chunked(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                 size_t out_stride, std::byte* workspace) {
  run_chunked<I8, false>(m, in, bias(m, in, workspace), begin, end, out, out_stride,
                         workspace + biased_bytes(m, in.tokens));
}

}  // namespace filigree::linear
