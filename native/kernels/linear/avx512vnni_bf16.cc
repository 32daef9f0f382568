// bf16 weights widened to f32: fma in ascending k, for processors with VBMI2 but without vdpbf16ps.
#include "kernels/linear/avx512_bf16_tiles.h"

namespace filigree::linear {
namespace {

struct Widened : Bf16Tile {
  static __m512i dot(__m512i acc, __m512i w, __m512i x) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000));
    __m512 sum = _mm512_castsi512_ps(acc);
    sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
                          _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), sum);
    sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(w, high)),
                          _mm512_castsi512_ps(_mm512_and_si512(x, high)), sum);
    return _mm512_castps_si512(sum);
  }
};

}  // namespace

void avx512vnni_bf16_dense_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                  size_t out_stride, std::byte*) {
  run_stream<Widened, false>(m, in, Widened::dwords(in), begin, end, out, out_stride);
}
void avx512vnni_bf16_bitmask_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end,
                                    float* out, size_t out_stride, std::byte*) {
  run_stream<Widened, true>(m, in, Widened::dwords(in), begin, end, out, out_stride);
}
void avx512vnni_bf16_dense_chunked(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                   size_t out_stride, std::byte* workspace) {
  run_chunked<Widened, false>(m, in, Widened::dwords(in), begin, end, out, out_stride, workspace);
}
void avx512vnni_bf16_bitmask_chunked(const Matrix& m, const Input& in, uint32_t begin, uint32_t end,
                                     float* out, size_t out_stride, std::byte* workspace) {
  run_chunked<Widened, true>(m, in, Widened::dwords(in), begin, end, out, out_stride, workspace);
}

}  // namespace filigree::linear
