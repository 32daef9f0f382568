// Prefill of i4-bitmask matrices that multiplies nonzeros only (avx512_steps.h), for codes without minimum: a window never crosses the
// end of a group, where the exact sum meets its scale. The activations' bias of 128 leaves through the groups' sums of codes.
#include "kernels/linear/avx512_i4_tiles.h"
#include "kernels/linear/avx512_steps.h"

namespace filigree::linear {

// avx512vnni_i4.cc; for what the gather does not serve.
void avx512vnni_i4_bitmask_chunked(const Matrix&, const Input&, uint32_t, uint32_t, float*, size_t,
                                   std::byte*);
size_t avx512vnni_i4_chunk_workspace(const MatrixSpec&, uint32_t);

namespace {

constexpr uint32_t kGatherTokens = 8;  // an accumulator and a sum over groups each

// A panel's steps, where each group's end, and what its accumulators start at.
struct PanelSteps {
  Steps steps;
  uint32_t* ends;     // [groups]
  std::byte* starts;  // [groups][16 int32]
};
constexpr size_t group_bytes(const MatrixSpec& m) {
  return size_t{group_count(m)} * 64 + (group_count(m) * sizeof(uint32_t) + 63) / 64 * 64;
}
constexpr size_t panel_bytes(const MatrixSpec& m) {
  return steps_bytes(m) + windows_bytes(m) + group_bytes(m);
}

PanelSteps panel_steps(const MatrixSpec& m, std::byte* at) {
  PanelSteps p;
  p.steps = {at, reinterpret_cast<uint32_t*>(at + steps_bytes(m)), 0};
  p.starts = at + steps_bytes(m) + windows_bytes(m);
  p.ends = reinterpret_cast<uint32_t*>(p.starts + size_t{group_count(m)} * 64);
  return p;
}

void end_group(size_t group, size_t first_step, PanelSteps& p) {
  __m512i codes = _mm512_setzero_si512();
  for (size_t s = first_step; s < p.steps.count; ++s)
    codes = _mm512_dpbusd_epi32(codes, _mm512_set1_epi8(1), _mm512_load_si512(p.steps.data + s * kStepBytes));
  _mm512_store_si512(p.starts + group * 64,
                     _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(codes, 7)));
  p.ends[group] = static_cast<uint32_t>(p.steps.count);
}

// Both panels of a pair.
void make_steps(const Matrix& m, uint32_t pair, PanelSteps (&panels)[2]) {
  PairStream<1, true, false> stream(m, PanelSet{pair, 1});
  const uint32_t groups = group_count(m), group_tiles = group_size(m.format) / 4;
  const __m512i eight = _mm512_set1_epi8(8);
  panels[0].steps.count = panels[1].steps.count = 0;
  for (uint32_t g = 0; g < groups; ++g) {
    const size_t first[2] = {panels[0].steps.count, panels[1].steps.count};
    for (uint32_t tile = g * group_tiles; tile < (g + 1) * group_tiles; tile += 16) {
      const uint32_t count = group_tiles < 16 ? group_tiles : 16;
      __m512i code[2][16];
      for (uint32_t j = 0; j < 16; ++j) {
        __m512i w[2] = {eight, eight}, present[2];
        if (j < count) stream.next(0, tile + j, w, present);
        code[0][j] = _mm512_sub_epi8(w[0], eight);
        code[1][j] = _mm512_sub_epi8(w[1], eight);
      }
      for (int h = 0; h < 2; ++h)
        add_window(code[h], tile / 16 * 64, static_cast<uint8_t>(tile % 16 * 4), panels[h].steps);
    }
    for (int h = 0; h < 2; ++h) end_group(g, first[h], panels[h]);
  }
}

template <int T>
void multiply_panel(const Matrix& m, const Input& in, const Dwords& x, const PanelSteps& p, uint32_t panel,
                    uint32_t token, float* out, size_t out_stride) {
  __m512 f[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) f[t] = _mm512_setzero_ps();
  const size_t groups = group_count(m);
  size_t begin = 0;
  for (size_t g = 0; g < groups; ++g) {
    const __m512i start = _mm512_load_si512(p.starts + g * 64);
    const size_t end = p.ends[g];
    __m512i acc[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) acc[t] = start;
    multiply_steps<T>(p.steps, begin, end, x.data + token * x.stride, x.stride, acc);
    begin = end;
    const __m512 scale = widen(m.group_scales + scales_at(m, panel, g));
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) f[t] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(acc[t]), f[t]);
  }
  __m512 sum[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) sum[t] = f[t];
  for (int t = 0; t < T; ++t) {
    const uint32_t at = token + static_cast<uint32_t>(t);
    _mm512_mask_storeu_ps(out + at * out_stride + panel * kPanelRows, row_mask(m, panel),
                          _mm512_mul_ps(sum[t], _mm512_set1_ps(in.scales[at])));
  }
}

}  // namespace

size_t avx512vnni_i4_gather_workspace(const MatrixSpec& m, uint32_t tokens) {
  const size_t gather = biased_bytes(m, tokens) + 2 * panel_bytes(m);
  const size_t chunked = avx512vnni_i4_chunk_workspace(m, tokens);
  return m.has_min ? chunked : gather;
}

void avx512vnni_i4_bitmask_gather(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                  size_t out_stride, std::byte* workspace) {
  // A minimum adds the sum of the activations at the stored columns, which the gather does not see.
  if (m.has_min) return avx512vnni_i4_bitmask_chunked(m, in, begin, end, out, out_stride, workspace);
  const Dwords x = bias(m, in, workspace);
  std::byte* const at = workspace + biased_bytes(m, in.tokens);
  PanelSteps panels[2] = {panel_steps(m, at), panel_steps(m, at + panel_bytes(m))};
  for (uint32_t panel = begin; panel < end; panel += 2) {
    make_steps(m, panel / 2, panels);
    for (uint32_t h = 0; h < 2 && panel + h < end; ++h) {
      uint32_t t = 0;
      for (; t + kGatherTokens <= in.tokens; t += kGatherTokens)
        multiply_panel<kGatherTokens>(m, in, x, panels[h], panel + h, t, out, out_stride);
      for (; t + 4 <= in.tokens; t += 4)
        multiply_panel<4>(m, in, x, panels[h], panel + h, t, out, out_stride);
      for (; t < in.tokens; ++t) multiply_panel<1>(m, in, x, panels[h], panel + h, t, out, out_stride);
    }
  }
}

}  // namespace filigree::linear
