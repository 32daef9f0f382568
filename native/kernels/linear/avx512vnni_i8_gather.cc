// Prefill of i8-bitmask matrices that multiplies nonzeros only. A panel is turned, once for all tokens, into *slots*: for every window
// of 64 columns as many steps as its fullest row has groups of four nonzeros; a step holds four codes of each of the 16 rows and
// their columns in the window. vpermb gathers a row's four activations from the window, which is one register a token, and
// vpdpbusd multiplies them:
//   acc[row] += sum over j < 4 of code[step][row][j] * x[window + column[step][row][j]]
// At 70 % zeros a window takes 7 steps where the dense tiles are 16, for one gather more a step. Slots that a row does not need
// have code 0. The sum is an exact integer, so the result is the other kernels'.
#include "kernels/linear/avx512_i8_tiles.h"

namespace filigree::linear {
namespace {

constexpr uint32_t kGatherTokens = 8;
constexpr size_t kWindow = 64, kStepBytes = 128, kMostSteps = 16;

constexpr size_t window_count(const MatrixSpec& m) {
  return (size_t{padded_cols(m)} + kWindow - 1) / kWindow;
}
constexpr size_t counts_bytes(const MatrixSpec& m) { return (window_count(m) + 63) / 64 * 64; }

// r[i] dword j <-> r[j] dword i.
__attribute__((always_inline)) inline void transpose(__m512i (&r)[16]) {
  __m512i a[16], b[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  // b[4 g + j]: rows 4 g .. 4 g + 3 of columns j, j + 4, j + 8, j + 12, one in each 128-bit lane.
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    b[4 * g] = _mm512_unpacklo_epi64(a[4 * g], a[4 * g + 2]);
    b[4 * g + 1] = _mm512_unpackhi_epi64(a[4 * g], a[4 * g + 2]);
    b[4 * g + 2] = _mm512_unpacklo_epi64(a[4 * g + 1], a[4 * g + 3]);
    b[4 * g + 3] = _mm512_unpackhi_epi64(a[4 * g + 1], a[4 * g + 3]);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512i low01 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0x88),
                  high01 = _mm512_shuffle_i32x4(b[j], b[4 + j], 0xDD);
    const __m512i low23 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0x88),
                  high23 = _mm512_shuffle_i32x4(b[8 + j], b[12 + j], 0xDD);
    r[j] = _mm512_shuffle_i32x4(low01, low23, 0x88);
    r[8 + j] = _mm512_shuffle_i32x4(low01, low23, 0xDD);
    r[4 + j] = _mm512_shuffle_i32x4(high01, high23, 0x88);
    r[12 + j] = _mm512_shuffle_i32x4(high01, high23, 0xDD);
  }
}

// Writes the steps of a panel (64 codes, 64 columns each) and the number of steps of each window.
void make_slots(const Matrix& m, uint32_t panel, std::byte* steps, uint8_t* counts) {
  Stream<I8, 1, true> stream(m, panel);
  alignas(64) static constexpr uint8_t kColumns[64] = {
      0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
      22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
      44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
  const __m512i columns = _mm512_load_si512(kColumns);
  const size_t tiles = tile_count(m), windows = window_count(m);
  for (size_t window = 0; window < windows; ++window) {
    __m512i code[16], column[16];
    if (window * 16 + 16 <= tiles) {
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) code[j] = stream.next(0, window * 16 + static_cast<size_t>(j));
    } else {
      for (int j = 0; j < 16; ++j) {
        const size_t tile = window * 16 + static_cast<size_t>(j);
        code[j] = tile < tiles ? stream.next(0, tile) : _mm512_setzero_si512();
      }
    }
    transpose(code);  // code[r]: the window of row r
    int most = 0;
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      const __mmask64 stored = _mm512_test_epi8_mask(code[r], code[r]);
      const int count = __builtin_popcountll(stored);
      most = count > most ? count : most;
      column[r] = _mm512_maskz_compress_epi8(stored, columns);
      code[r] = _mm512_maskz_compress_epi8(stored, code[r]);
    }
    transpose(code);  // code[s]: four codes of each row
    transpose(column);
    const int count = (most + 3) / 4;
    counts[window] = static_cast<uint8_t>(count);
    for (int s = 0; s < count; ++s, steps += kStepBytes) {
      _mm512_store_si512(steps, code[s]);
      _mm512_store_si512(steps + 64, column[s]);
    }
  }
}

template <int T>
void multiply_slots(const Matrix& m, const Input& in, const Dwords& x, const std::byte* steps,
                    const uint8_t* counts, uint32_t panel, uint32_t token, float* out, size_t out_stride) {
  const std::byte* row[T];
  __m512i acc[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    row[t] = x.data + (token + static_cast<uint32_t>(t)) * x.stride;
    acc[t] = _mm512_setzero_si512();
  }
  const size_t windows = window_count(m);
  for (size_t window = 0; window < windows; ++window) {
    __m512i a[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) a[t] = _mm512_load_si512(row[t] + window * kWindow);
    for (int s = counts[window]; s > 0; --s, steps += kStepBytes) {
      const __m512i code = _mm512_load_si512(steps), column = _mm512_load_si512(steps + 64);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
        acc[t] = _mm512_dpbusd_epi32(acc[t], _mm512_permutexvar_epi8(column, a[t]), code);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
    const uint32_t at = token + static_cast<uint32_t>(t);
    _mm512_mask_storeu_ps(out + at * out_stride + panel * kPanelRows, row_mask(m, panel),
                          I8::finish(acc[t], m, in, panel, at));
  }
}

}  // namespace

size_t avx512vnni_i8_gather_workspace(const MatrixSpec& m, uint32_t tokens) {
  return biased_bytes(m, tokens) + counts_bytes(m) + window_count(m) * kMostSteps * kStepBytes;
}

void avx512vnni_i8_bitmask_gather(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                  size_t out_stride, std::byte* workspace) {
  const Dwords x = bias(m, in, workspace);
  uint8_t* counts = reinterpret_cast<uint8_t*>(workspace + biased_bytes(m, in.tokens));
  std::byte* steps = workspace + biased_bytes(m, in.tokens) + counts_bytes(m);
  for (uint32_t panel = begin; panel < end; ++panel) {
    make_slots(m, panel, steps, counts);
    uint32_t t = 0;
    for (; t + kGatherTokens <= in.tokens; t += kGatherTokens)
      multiply_slots<kGatherTokens>(m, in, x, steps, counts, panel, t, out, out_stride);
    for (; t + 4 <= in.tokens; t += 4) multiply_slots<4>(m, in, x, steps, counts, panel, t, out, out_stride);
    for (; t < in.tokens; ++t) multiply_slots<1>(m, in, x, steps, counts, panel, t, out, out_stride);
  }
}

}  // namespace filigree::linear
