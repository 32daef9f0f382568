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

constexpr uint32_t kStepPairs = kStepPanels / 2;

// A panel's steps, how many of those belong to each group and the ones before it, and what a group's accumulators start at.
struct PanelSteps {
  Steps steps;
  uint32_t* ends;     // [group]
  std::byte* starts;  // [group][16 int32]
};
constexpr size_t groups_bytes(const MatrixSpec& m) {
  return size_t{group_count(m)} * 64 + (group_count(m) * sizeof(uint32_t) + 63) / 64 * 64;
}
constexpr size_t panel_bytes(const MatrixSpec& m) { return steps_bytes(m) + groups_bytes(m); }

PanelSteps panel_steps_at(const MatrixSpec& m, std::byte* at) {
  std::byte* const starts = at + steps_bytes(m);
  return {steps_at(m, at), reinterpret_cast<uint32_t*>(starts + size_t{group_count(m)} * 64), starts};
}

// Both panels of a pair.
template <Layout kLayout>
void list_pair(const Matrix& m, uint32_t pair, RowLists (&lists)[2]) {
  PairStream<1, kLayout, false> stream(m, PanelSet{pair, 1});
  const size_t tiles = tile_count(m);
  const __m512i eight = _mm512_set1_epi8(8);
  for (RowLists& list : lists) _mm512_store_si512(list.lengths, _mm512_setzero_si512());
  for (size_t tile = 0; tile < tiles; tile += 16) {
    __m512i code[2][16];
    for (size_t j = 0; j < 16; ++j) {
      __m512i w[2] = {eight, eight}, present[2];
      if (tile + j < tiles) stream.next(0, tile + j, w, present);
      code[0][j] = _mm512_sub_epi8(w[0], eight);
      code[1][j] = _mm512_sub_epi8(w[1], eight);
    }
    for (int h = 0; h < 2; ++h) list_window(code[h], tile / 8, lists[h]);
  }
}

void group_steps(const MatrixSpec& m, const RowLists& lists, PanelSteps& panel) {
  const size_t group_halves = group_size(m.format) / kHalf;
  Steps& steps = panel.steps;
  size_t begin = 0;
  make_steps(lists, group_count(m) * group_halves, group_halves, steps, [&](size_t halves) {
    if (halves % group_halves != 0) return;
    const size_t group = halves / group_halves - 1;
    __m512i codes = _mm512_setzero_si512();
    for (; begin < steps.count; ++begin)
      codes =
          _mm512_dpbusd_epi32(codes, _mm512_set1_epi8(1), _mm512_load_si512(steps.data + begin * kStepBytes));
    _mm512_store_si512(panel.starts + group * 64,
                       _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(codes, 7)));
    panel.ends[group] = static_cast<uint32_t>(steps.count);
  });
}

template <int T>
void multiply_panel(const Matrix& m, const Input& in, uint32_t panel, const PanelSteps& of, const At& at,
                    __m512* f, float* out, size_t out_stride) {
  const size_t groups = group_count(m), block_groups = kBlockColumns / group_size(m.format);
  const size_t first = at.block * block_groups,
               last = groups - first < block_groups ? groups : first + block_groups;
  if (at.block == 0) {
    for (int t = 0; t < T; ++t) f[t] = _mm512_setzero_ps();
  }
  size_t begin = first == 0 ? 0 : of.ends[first - 1];
  for (size_t g = first; g < last; ++g) {
    const __m512i start = _mm512_load_si512(of.starts + g * 64);
    const size_t end = of.ends[g];
    __m512i acc[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) acc[t] = start;
    multiply_steps<T>(of.steps, begin, end, at.x, acc);
    begin = end;
    const __m512 scale = widen(m.group_scales + scales_at(m, panel, g));
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) f[t] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(acc[t]), f[t]);
    // The registers are the accumulators': GCC would keep f in them and the accumulators on the stack.
    __asm__ volatile("" ::: "memory");
  }
  if (last < groups) return;
  for (int t = 0; t < T; ++t) {
    const uint32_t token = at.token + static_cast<uint32_t>(t);
    _mm512_mask_storeu_ps(out + token * out_stride + panel * kPanelRows, row_mask(m, panel),
                          _mm512_mul_ps(f[t], _mm512_set1_ps(in.scales[token])));
  }
}

}  // namespace

size_t avx512vnni_i4_gather_workspace(const MatrixSpec& m, uint32_t tokens) {
  const size_t gather = kBlockBytes + kSavedBytes + kStepPanels * panel_bytes(m) + 2 * lists_bytes(m);
  const size_t chunked = avx512vnni_i4_chunk_workspace(m, tokens);
  return m.has_min ? chunked : gather;
}

void avx512vnni_i4_bitmask_gather(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                  size_t out_stride, std::byte* workspace) {
  // A minimum adds the sum of the activations at the stored columns, which the gather does not see.
  if (m.has_min) return avx512vnni_i4_bitmask_chunked(m, in, begin, end, out, out_stride, workspace);
  std::byte* next = workspace + kBlockBytes;
  __m512* const saved = reinterpret_cast<__m512*>(next);
  next += kSavedBytes;
  PanelSteps panel_steps[kStepPanels];
  for (PanelSteps& p : panel_steps) p = panel_steps_at(m, next), next += panel_bytes(m);
  RowLists lists[2] = {lists_at(m, next), lists_at(m, next + lists_bytes(m))};
  const uint32_t end_pair = (end + 1) / 2;
  for (uint32_t pair = begin / 2; pair < end_pair; pair += kStepPairs) {
    const uint32_t pairs = end_pair - pair < kStepPairs ? end_pair - pair : kStepPairs;
    for (uint32_t q = 0; q < pairs; ++q) {
      m.layout == Layout::pairs ? list_pair<Layout::pairs>(m, pair + q, lists)
                                : list_pair<Layout::bitmask>(m, pair + q, lists);
      for (uint32_t h = 0; h < 2; ++h) group_steps(m, lists[h], panel_steps[2 * q + h]);
    }
    for_blocks(m, in, workspace, [&]<int T>(const At& at) {
      for (uint32_t p = 0; p < 2 * pairs; ++p)
        multiply_panel<T>(m, in, 2 * pair + p, panel_steps[p], at, saved + p * kRunTokens + at.row, out,
                          out_stride);
    });
  }
}

}  // namespace filigree::linear
