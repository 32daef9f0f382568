#pragma once
// Multiplying nonzeros only, from bitmask matrices. A panel is turned, once for all tokens, into *steps*: for every window of up to 64
// columns as many as its fullest row has groups of four nonzeros; a step holds four codes of each of the 16 rows and their columns in
// the window. vpermb gathers a row's four activations from the window, one register of a token, and vpdpbusd multiplies them:
//   acc[row] += sum over j < 4 of code[step][row][j] * x[window + column[step][row][j]]
// At 70 % zeros a window of 64 columns takes 7 steps where the dense tiles are 16, for one gather more a step. Slots that a row does
// not need have code 0. The sum is an exact integer, so the result is the other kernels'.
#include "kernels/linear/avx512_i8_tiles.h"

namespace filigree::linear {
namespace {

constexpr size_t kWindow = 64, kStepBytes = 128;

// The steps of a panel, one after the other, and where in a token's activations the window of each begins. The windows are loaded
// again for every step: that costs no more than the gather itself, and a loop over each window's few steps would mispredict its
// end most times.
struct Steps {
  std::byte* data;    // [count][codes 64 bytes, columns 64 bytes]
  uint32_t* windows;  // [count]
  size_t count;
};
// A row of `columns` columns a window has at most columns / 4 steps: as many as there are tiles.
constexpr size_t most_steps(const MatrixSpec& m) { return (size_t{tile_count(m)} + 15) / 16 * 16; }
constexpr size_t steps_bytes(const MatrixSpec& m) { return most_steps(m) * kStepBytes; }
constexpr size_t windows_bytes(const MatrixSpec& m) { return most_steps(m) * sizeof(uint32_t); }

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

// Appends the steps of one window. codes[j]: tile j of the window, 0 where nothing is stored; the tiles are columns
// window + first_column + 4 j.
inline void add_window(__m512i (&code)[16], uint32_t window, uint8_t first_column, Steps& steps) {
  alignas(64) static constexpr uint8_t kColumns[64] = {
      0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
      22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
      44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
  const __m512i columns =
      _mm512_add_epi8(_mm512_load_si512(kColumns), _mm512_set1_epi8(static_cast<char>(first_column)));
  __m512i column[16];
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
  for (int s = 0; 4 * s < most; ++s, ++steps.count) {
    _mm512_store_si512(steps.data + steps.count * kStepBytes, code[s]);
    _mm512_store_si512(steps.data + steps.count * kStepBytes + 64, column[s]);
    steps.windows[steps.count] = window;
  }
}

// Adds steps [begin, end) of T tokens, `stride` bytes apart from `x` on, to their accumulators.
template <int T>
__attribute__((always_inline)) inline void multiply_steps(const Steps& steps, size_t begin, size_t end,
                                                          const std::byte* x, size_t stride,
                                                          __m512i (&acc)[T]) {
  const std::byte* step = steps.data + begin * kStepBytes;
  for (size_t s = begin; s < end; ++s, step += kStepBytes) {
    const __m512i code = _mm512_load_si512(step), column = _mm512_load_si512(step + 64);
    const std::byte* window = x + steps.windows[s];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const __m512i a = _mm512_load_si512(window + static_cast<size_t>(t) * stride);
      acc[t] = _mm512_dpbusd_epi32(acc[t], _mm512_permutexvar_epi8(column, a), code);
    }
  }
}

}  // namespace
}  // namespace filigree::linear
