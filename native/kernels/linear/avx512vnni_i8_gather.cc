// Prefill of i8-bitmask matrices that multiplies nonzeros only: avx512_steps.h.
#include "kernels/linear/avx512_steps.h"

namespace filigree::linear {
namespace {

// A panel's steps, and how many of those belong to each block of columns and the ones before it.
struct PanelSteps {
  Steps steps;
  uint32_t* ends;  // [block]
};
constexpr size_t ends_bytes(const MatrixSpec& m) {
  return (block_count(m) * sizeof(uint32_t) + 63) / 64 * 64;
}

void list_panel(const Matrix& m, uint32_t panel, RowLists& lists) {
  Stream<I8, 1, true> stream(m, PanelSet{panel, 1});
  const size_t tiles = tile_count(m);
  _mm512_store_si512(lists.lengths, _mm512_setzero_si512());
  for (size_t tile = 0; tile < tiles; tile += 16) {
    __m512i code[16];
    if (tile + 16 <= tiles) {
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) code[j] = stream.next(0, tile + static_cast<size_t>(j));
    } else {
      for (size_t j = 0; j < 16; ++j)
        code[j] = tile + j < tiles ? stream.next(0, tile + j) : _mm512_setzero_si512();
    }
    list_window(code, tile / 8, lists);
  }
}

template <int T>
void multiply_panel(const Matrix& m, const Input& in, uint32_t panel, const PanelSteps& of, const At& at,
                    __m512i* saved, float* out, size_t out_stride) {
  __m512i acc[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) acc[t] = at.block == 0 ? _mm512_setzero_si512() : saved[t];
  multiply_steps<T>(of.steps, at.block == 0 ? 0 : of.ends[at.block - 1], of.ends[at.block], at.x, acc);
  if (at.block + 1 < block_count(m)) {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) saved[t] = acc[t];
    return;
  }
  __m512i sum[T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) sum[t] = acc[t];
  for (int t = 0; t < T; ++t) {
    const uint32_t token = at.token + static_cast<uint32_t>(t);
    _mm512_mask_storeu_ps(out + token * out_stride + panel * kPanelRows, row_mask(m, panel),
                          I8::finish(sum[t], m, in, panel, token));
  }
}

}  // namespace

size_t avx512vnni_i8_gather_workspace(const MatrixSpec& m, uint32_t) {
  return kBlockBytes + kSavedBytes + kStepPanels * (steps_bytes(m) + ends_bytes(m)) + lists_bytes(m);
}

void avx512vnni_i8_bitmask_gather(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                  size_t out_stride, std::byte* workspace) {
  std::byte* next = workspace + kBlockBytes;
  __m512i* const saved = reinterpret_cast<__m512i*>(next);
  next += kSavedBytes;
  PanelSteps panel_steps[kStepPanels];
  for (PanelSteps& p : panel_steps) {
    p = {steps_at(m, next), reinterpret_cast<uint32_t*>(next + steps_bytes(m))};
    next += steps_bytes(m) + ends_bytes(m);
  }
  RowLists lists = lists_at(m, next);
  const size_t halves = (size_t{padded_cols(m)} + kHalf - 1) / kHalf;
  for (uint32_t first = begin; first < end; first += kStepPanels) {
    const uint32_t panels = end - first < kStepPanels ? end - first : kStepPanels;
    for (uint32_t p = 0; p < panels; ++p) {
      PanelSteps& of = panel_steps[p];
      list_panel(m, first + p, lists);
      make_steps(lists, halves, halves, of.steps, [&](size_t done) {
        of.ends[(done - 1) / (kBlockColumns / kHalf)] = static_cast<uint32_t>(of.steps.count);
      });
    }
    for_blocks(m, in, workspace, [&]<int T>(const At& at) {
      for (uint32_t p = 0; p < panels; ++p)
        multiply_panel<T>(m, in, first + p, panel_steps[p], at, saved + p * kRunTokens + at.row, out,
                          out_stride);
    });
  }
}

}  // namespace filigree::linear
