// Prefill of i8-bitmask matrices that multiplies nonzeros only: avx512_steps.h.
#include "kernels/linear/avx512_steps.h"

namespace filigree::linear {
namespace {

// Tokens that share a step's codes and columns: as many accumulators, and nothing else that lives long.
constexpr uint32_t kGatherTokens = 16;

void make_steps(const Matrix& m, uint32_t panel, Steps& steps) {
  Stream<I8, 1, true> stream(m, PanelSet{panel, 1});
  const size_t tiles = tile_count(m);
  steps.count = 0;
  for (size_t tile = 0; tile < tiles; tile += 16) {
    __m512i code[16];
    if (tile + 16 <= tiles) {
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) code[j] = stream.next(0, tile + static_cast<size_t>(j));
    } else {
      for (size_t j = 0; j < 16; ++j)
        code[j] = tile + j < tiles ? stream.next(0, tile + j) : _mm512_setzero_si512();
    }
    add_window(code, static_cast<uint32_t>(4 * tile), 0, steps);
  }
}

template <int T>
void multiply_panel(const Matrix& m, const Input& in, const Dwords& x, const Steps& steps, uint32_t panel,
                    uint32_t token, float* out, size_t out_stride) {
  __m512i acc[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) acc[t] = _mm512_setzero_si512();
  multiply_steps<T>(steps, 0, steps.count, x.data + token * x.stride, x.stride, acc);
  __m512i sum[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) sum[t] = acc[t];
  for (int t = 0; t < T; ++t) {
    const uint32_t at = token + static_cast<uint32_t>(t);
    _mm512_mask_storeu_ps(out + at * out_stride + panel * kPanelRows, row_mask(m, panel),
                          I8::finish(sum[t], m, in, panel, at));
  }
}

}  // namespace

size_t avx512vnni_i8_gather_workspace(const MatrixSpec& m, uint32_t tokens) {
  return biased_bytes(m, tokens) + steps_bytes(m) + windows_bytes(m);
}

void avx512vnni_i8_bitmask_gather(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                  size_t out_stride, std::byte* workspace) {
  const Dwords x = bias(m, in, workspace);
  std::byte* const data = workspace + biased_bytes(m, in.tokens);
  Steps steps{data, reinterpret_cast<uint32_t*>(data + steps_bytes(m)), 0};
  for (uint32_t panel = begin; panel < end; ++panel) {
    make_steps(m, panel, steps);
    uint32_t t = 0;
    for (; t + kGatherTokens <= in.tokens; t += kGatherTokens)
      multiply_panel<kGatherTokens>(m, in, x, steps, panel, t, out, out_stride);
    for (; t + 4 <= in.tokens; t += 4) multiply_panel<4>(m, in, x, steps, panel, t, out, out_stride);
    for (; t < in.tokens; ++t) multiply_panel<1>(m, in, x, steps, panel, t, out, out_stride);
  }
}

}  // namespace filigree::linear
