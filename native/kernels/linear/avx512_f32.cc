// f32 weights: fma in ascending k, dense and bitmask (vexpandps). Needs AVX-512 F, BW, VL, DQ.
#include "kernels/linear/avx512_tiles.h"

namespace filigree::linear {
namespace {

struct F32 {
  static constexpr size_t kMaskBytes = 2;
  static uint32_t take(const std::byte* masks, size_t tile) {
    uint16_t bits;
    __builtin_memcpy(&bits, masks + 2 * tile, 2);
    return bits;
  }
  static size_t count(uint32_t bits) { return static_cast<size_t>(__builtin_popcount(bits)) * 4; }
  // Loading a mask register takes the port that vpexpandd needs twice, on Intel's cores; half of the panels make theirs by a shift
  // and a move of sign bits on the other port. That reads two bytes past the word: something always follows the masks.
  static __m512i expand(uint32_t bits, const std::byte* mask, const std::byte* at, int p) {
    const __m512i to_sign = _mm512_set_epi32(16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31);
    const __mmask16 k = p % 2 == 0 ? static_cast<__mmask16>(bits)
                                   : _mm512_movepi32_mask(_mm512_sllv_epi32(broadcast(mask), to_sign));
    return _mm512_maskz_expand_epi32(k, _mm512_loadu_si512(at));
  }
  static __m512i dot(__m512i acc, __m512i w, __m512i x) {
    return _mm512_castps_si512(
        _mm512_fmadd_ps(_mm512_castsi512_ps(w), _mm512_castsi512_ps(x), _mm512_castsi512_ps(acc)));
  }
  static __m512 finish(__m512i acc, const Matrix&, const Input&, uint32_t, uint32_t) {
    return _mm512_castsi512_ps(acc);
  }
};

Dwords dwords(const Input& in) { return {reinterpret_cast<const std::byte*>(in.f32), in.stride * 4}; }

}  // namespace

size_t avx512_no_workspace(const MatrixSpec&, uint32_t) { return 0; }
size_t avx512_chunk_workspace(const MatrixSpec&, uint32_t tokens) { return chunked_workspace(tokens); }

void avx512_f32_dense_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                             size_t out_stride, std::byte*) {
  run_stream<F32, false>(m, in, dwords(in), begin, end, out, out_stride);
}
void avx512_f32_bitmask_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                               size_t out_stride, std::byte*) {
  run_stream<F32, true>(m, in, dwords(in), begin, end, out, out_stride);
}
void avx512_f32_dense_chunked(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                              size_t out_stride, std::byte* workspace) {
  run_chunked<F32, false>(m, in, dwords(in), begin, end, out, out_stride, workspace);
}
void avx512_f32_bitmask_chunked(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                size_t out_stride, std::byte* workspace) {
  run_chunked<F32, true>(m, in, dwords(in), begin, end, out, out_stride, workspace);
}

}  // namespace filigree::linear
