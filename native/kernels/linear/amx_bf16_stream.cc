// One or two tokens by a bf16 bitmask in the order of tdpbf16ps, so that a token has the same bits whether tiles or this kernel compute it:
//   of every 32 columns the even and the odd ones are summed on their own, fused multiply-adds in ascending k from +0, and
//   acc = acc + (even + odd), all with denormals taken and given as zero (Intel's Software Developer's Manual, TDPBF16PS).
// What is expanded stays in registers: through cache into tiles, decoding takes a third longer.
#include "kernels/linear/avx512_bf16_tiles.h"

namespace filigree::linear {
namespace {

constexpr size_t kStepTiles = 16;

// x: [tokens][stride] floats.
template <int P, int T>
void stream_panels(const Matrix& m, const float* x, size_t stride, PanelSet panels, float* out,
                   size_t out_stride) {
  Stream<Bf16Tile, P, true> stream(m, panels);
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000));
  const size_t tiles = tile_count(m);
  __m512 total[P][T];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) total[p][t] = _mm512_setzero_ps();
  }
  for (size_t first = 0; first < tiles; first += kStepTiles) {
    const size_t end = tiles - first < kStepTiles ? tiles : first + kStepTiles;
    __m512 even[P][T], odd[P][T];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) even[p][t] = odd[p][t] = _mm512_setzero_ps();
    }
    stream.prefetch_masks(first);
    for (size_t k = first; k < end; ++k) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const __m512i w = stream.next(p, k);
        const __m512 w_even = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
                     w_odd = _mm512_castsi512_ps(_mm512_and_si512(w, high));
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) {
          const float* pair = x + static_cast<size_t>(t) * stride + 2 * k;
          even[p][t] = _mm512_fmadd_ps(w_even, _mm512_set1_ps(pair[0]), even[p][t]);
          odd[p][t] = _mm512_fmadd_ps(w_odd, _mm512_set1_ps(pair[1]), odd[p][t]);
        }
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t)
        total[p][t] = _mm512_add_ps(total[p][t], _mm512_add_ps(even[p][t], odd[p][t]));
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      const uint32_t at = panels[p];
      _mm512_mask_storeu_ps(out + static_cast<size_t>(t) * out_stride + at * kPanelRows, row_mask(m, at),
                            total[p][t]);
    }
  }
}

// bf16 rows as floats; whole tiles of 16 columns.
size_t widened_stride(const MatrixSpec& m) { return (size_t{padded_cols(m)} + 15) / 16 * 16; }

// Not inlined: no arithmetic of it may move out of a TileRounding's life.
__attribute__((noinline)) void stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end,
                                      float* out, size_t out_stride, float* x) {
  const size_t stride = widened_stride(m);
  for (uint32_t t = 0; t < in.tokens; ++t) {
    for (size_t k = 0; k < stride; k += 16) {
      const __m256i row = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in.bf16 + t * in.stride + k));
      _mm512_store_si512(x + t * stride + k, _mm512_slli_epi32(_mm512_cvtepu16_epi32(row), 16));
    }
  }
  for_panel_blocks(begin, end, [&]<int P>(PanelSet panels) {
    in.tokens == 1 ? stream_panels<P, 1>(m, x, stride, panels, out, out_stride)
                   : stream_panels<P, 2>(m, x, stride, panels, out, out_stride);
  });
}

// The control word that tile instructions behave as if they had: nearest rounding, denormals are zeros, results that would be are too.
class TileRounding {
 public:
  TileRounding() : before_(_mm_getcsr()) { _mm_setcsr(0x9FC0); }
  ~TileRounding() { _mm_setcsr(before_); }

 private:
  uint32_t before_;
};

}  // namespace

size_t amx_bf16_stream_workspace(const MatrixSpec& m, uint32_t tokens) {
  return widened_stride(m) * tokens * sizeof(float);
}

void amx_bf16_bitmask_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                             size_t out_stride, std::byte* workspace) {
  const TileRounding rounding;
  stream(m, in, begin, end, out, out_stride, reinterpret_cast<float*>(workspace));
}

}  // namespace filigree::linear
