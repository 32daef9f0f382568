#pragma once
// Multiplying nonzeros only, from bitmask matrices. A panel is turned, once for all tokens, into *steps*: four stored codes of each of
// the 16 rows and their columns within a window of 64 columns of the activations. vpermb gathers a row's four activations from the window,
// one register of a token, and vpdpbusd multiplies them:
//   acc[row] += sum over j < 4 of code[step][row][j] * x[window + column[step][row][j]]
// Windows begin at multiples of 32 columns. There are as many steps at a window as the row with most codes left in its first half has
// groups of four; rows that have fewer fill up from the second half. So at 70 % zeros 64 columns take 5.4 steps, where windows that do
// not overlap would take 6.8 and the dense tiles are 16, for one gather more a step. Slots that a row cannot fill have code 0. The sum
// is an exact integer, so the result is the other kernels'.
#include "kernels/linear/avx512_i8_tiles.h"

namespace filigree::linear {
namespace {

constexpr uint32_t kHalf = 32;
// Columns of the activations that stay in L1 for a block of tokens while kStepPanels panels pass over them. Whole groups of i4.
constexpr uint32_t kBlockColumns = 512, kStepPanels = 16;
// Tokens that share a step's codes and columns: as many accumulators, and nothing else that lives long. kTokenRun blocks of them go through
// all of K, so that the sums between blocks of columns stay in L2.
constexpr uint32_t kStepTokens = 16, kTokenRun = 8;
// A token's activations of a block: as they are, and once more from column 32 on, so that every window is one line. An odd number of
// lines keeps tokens from colliding in L1.
constexpr size_t kBlockStride = 2 * kBlockColumns + 64;
constexpr size_t kBlockBytes = kStepTokens * kBlockStride;
constexpr size_t kStepBytes = 128;

constexpr size_t block_count(const MatrixSpec& m) {
  return (size_t{padded_cols(m)} + kBlockColumns - 1) / kBlockColumns;
}

// Columns [first, first + kBlockColumns) of `count` tokens, biased by 128 (avx512_i8_tiles.h), as [token][kBlockStride].
inline void copy_block(const Matrix& m, const Input& in, uint32_t token, uint32_t count, size_t first,
                       std::byte* to) {
  const size_t left = padded_cols(m) - first, columns = left < kBlockColumns ? left : kBlockColumns;
  const __m512i bias = _mm512_set1_epi8(static_cast<char>(0x80));
  for (uint32_t t = 0; t < count; ++t, to += kBlockStride) {
    const int8_t* row = in.i8 + (token + t) * in.stride + first;
    std::byte* const later = to + kBlockColumns - kHalf;
    // Rows are readable to a multiple of kInputPadding = 128; what lies behind them, or is not written here, no code is stored for. The
    // first 32 bytes that `later` gets are overwritten by the last of the copy before it.
    for (size_t k = 0; k < columns; k += 64) {
      const __m512i x = _mm512_xor_si512(_mm512_loadu_si512(row + k), bias);
      _mm512_storeu_si512(later + k, x);
      _mm512_store_si512(to + k, x);
    }
    if (left > kBlockColumns)
      _mm256_store_si256(
          reinterpret_cast<__m256i*>(later + kBlockColumns),
          _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + kBlockColumns)),
                           _mm512_castsi512_si256(bias)));
  }
}

// Where a kernel is: at `token`, whose sums between blocks of columns are its `row`-th of kRunTokens a panel, and whose activations lie at x.
struct At {
  size_t block;
  uint32_t token, row;
  const std::byte* x;
};
constexpr uint32_t kRunTokens = kTokenRun * kStepTokens;
constexpr size_t kSavedBytes = size_t{kStepPanels} * kRunTokens * 64;

// multiply.template operator()<T>(At) for every block of columns and block of T tokens, T from 11 to kStepTokens: at least 32 tokens. A
// token's blocks of columns ascend.
template <class Multiply>
void for_blocks(const Matrix& m, const Input& in, std::byte* x, const Multiply& multiply) {
  const uint32_t parts = (in.tokens + kStepTokens - 1) / kStepTokens;
  const auto begin_of = [&](uint32_t part) {
    return static_cast<uint32_t>(uint64_t{in.tokens} * part / parts);
  };
  for (uint32_t run = 0; run < parts; run += kTokenRun) {
    const uint32_t run_end = parts - run < kTokenRun ? parts : run + kTokenRun;
    for (size_t block = 0; block < block_count(m); ++block) {
      for (uint32_t part = run; part < run_end; ++part) {
        const uint32_t token = begin_of(part), count = begin_of(part + 1) - token;
        copy_block(m, in, token, count, block * kBlockColumns, x);
        const At at{block, token, token - begin_of(run), x};
        switch (count) {
          case 16:
            multiply.template operator()<16>(at);
            break;
          case 15:
            multiply.template operator()<15>(at);
            break;
          case 14:
            multiply.template operator()<14>(at);
            break;
          case 13:
            multiply.template operator()<13>(at);
            break;
          case 12:
            multiply.template operator()<12>(at);
            break;
          default:
            multiply.template operator()<11>(at);
        }
      }
    }
  }
}
// The steps of a panel, one after the other, and where the window of each begins in a token's activations of its block. The windows are
// loaded again for every step: that costs no more than the gather itself, and a loop over each window's few steps would mispredict its
// end most times.
struct Steps {
  std::byte* data;    // [count][codes 64 bytes, columns 64 bytes]
  uint32_t* windows;  // [count]
  size_t count;
};
// Half a window takes at most eight steps; up to three are written beyond the last.
constexpr size_t most_steps(const MatrixSpec& m) { return (size_t{tile_count(m)} + 15) / 16 * 16 + 16; }
constexpr size_t steps_bytes(const MatrixSpec& m) { return most_steps(m) * (kStepBytes + sizeof(uint32_t)); }
inline Steps steps_at(const MatrixSpec& m, std::byte* at) {
  return {at, reinterpret_cast<uint32_t*>(at + most_steps(m) * kStepBytes), 0};
}

// What is stored in each row of a panel, in order, and how much of it in each half of a window.
struct RowLists {
  size_t stride;
  std::byte* codes;       // [16][stride]
  std::byte* columns;     // [16][stride], mod 64
  uint8_t (*counts)[16];  // [half][row]
  alignas(64) uint32_t lengths[16];
};
// An odd number of lines, and the last 64 bytes of a list are written whole.
constexpr size_t list_stride(const MatrixSpec& m) { return ((size_t{padded_cols(m)} + 127) / 64 | 1) * 64; }
constexpr size_t counts_bytes(const MatrixSpec& m) { return (size_t{padded_cols(m)} + 127) / 64 * 2 * 16; }
constexpr size_t lists_bytes(const MatrixSpec& m) {
  return 32 * list_stride(m) + (counts_bytes(m) + 63) / 64 * 64;
}
inline RowLists lists_at(const MatrixSpec& m, std::byte* at) {
  const size_t stride = list_stride(m);
  return {stride, at, at + 16 * stride, reinterpret_cast<uint8_t(*)[16]>(at + 32 * stride), {}};
}

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

// Appends 64 columns to the lists: code[j] is tile j of them, 0 where nothing is stored. half: how many halves came before.
inline void list_window(__m512i (&code)[16], size_t half, RowLists& lists) {
  alignas(64) static constexpr uint8_t kColumns[64] = {
      0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
      22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
      44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
  const __m512i columns = _mm512_load_si512(kColumns);
  transpose(code);  // code[r]: the window of row r
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) {
    const __mmask64 stored = _mm512_test_epi8_mask(code[r], code[r]);
    const size_t at = static_cast<size_t>(r) * lists.stride + lists.lengths[r];
    const int low = __builtin_popcount(static_cast<uint32_t>(stored)), all = __builtin_popcountll(stored);
    _mm512_storeu_si512(lists.columns + at, _mm512_maskz_compress_epi8(stored, columns));
    _mm512_storeu_si512(lists.codes + at, _mm512_maskz_compress_epi8(stored, code[r]));
    lists.counts[half][r] = static_cast<uint8_t>(low);
    lists.counts[half + 1][r] = static_cast<uint8_t>(all - low);
    lists.lengths[r] += static_cast<uint32_t>(all);
  }
}

// Four steps from the 16 bytes that each row's list has at `at`.
__attribute__((always_inline)) inline void four_steps(const std::byte* list, size_t stride,
                                                      const uint32_t* at, __m512i (&step)[4]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto row = [&](int r) {
      return _mm_loadu_si128(
          reinterpret_cast<const __m128i*>(list + static_cast<size_t>(r) * stride + at[r]));
    };
    __m512i four = _mm512_castsi128_si512(row(i));
    four = _mm512_inserti32x4(four, row(i + 4), 1);
    four = _mm512_inserti32x4(four, row(i + 8), 2);
    step[i] = _mm512_inserti32x4(four, row(i + 12), 3);
  }
}
// step[i] lane g, row 4 g + i <-> step[s], dword s of every row.
__attribute__((always_inline)) inline void transpose_lanes(__m512i (&step)[4]) {
  const __m512i low01 = _mm512_unpacklo_epi32(step[0], step[1]),
                high01 = _mm512_unpackhi_epi32(step[0], step[1]);
  const __m512i low23 = _mm512_unpacklo_epi32(step[2], step[3]),
                high23 = _mm512_unpackhi_epi32(step[2], step[3]);
  step[0] = _mm512_unpacklo_epi64(low01, low23);
  step[1] = _mm512_unpackhi_epi64(low01, low23);
  step[2] = _mm512_unpacklo_epi64(high01, high23);
  step[3] = _mm512_unpackhi_epi64(high01, high23);
}

inline int most_of(__m128i bytes) {
  const __m128i inverse = _mm_xor_si128(bytes, _mm_set1_epi8(-1));
  const __m128i least = _mm_minpos_epu16(_mm_min_epu8(inverse, _mm_srli_epi16(inverse, 8)));
  return 255 - _mm_cvtsi128_si32(least) % 256;
}

// The steps of the `halves` halves that were listed. A window looks beyond its first half only where the second belongs to the same
// group of `group_halves`; at_end(number of halves) after the steps of each half.
template <class AtEnd>
void make_steps(const RowLists& lists, size_t halves, size_t group_halves, Steps& steps,
                const AtEnd& at_end) {
  steps.count = 0;
  alignas(64) uint32_t at[16] = {};
  alignas(64) static constexpr uint8_t kBytes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  // Row 4 g's byte in lane g; plus i for row 4 g + i.
  const __m512i rows =
      _mm512_set_epi32(0x0c0c0c0c, 0x0c0c0c0c, 0x0c0c0c0c, 0x0c0c0c0c, 0x08080808, 0x08080808, 0x08080808,
                       0x08080808, 0x04040404, 0x04040404, 0x04040404, 0x04040404, 0, 0, 0, 0);
  const __m512i bytes = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kBytes)));
  const auto count_of = [&](size_t half) {
    return _mm_load_si128(reinterpret_cast<const __m128i*>(lists.counts[half]));
  };
  __m512i position = _mm512_setzero_si512();
  __m128i borrowed = _mm_setzero_si128();
  for (size_t half = 0; half < halves; ++half) {
    const bool last = (half + 1) % group_halves == 0 || half + 1 == halves;
    const __m128i left = _mm_sub_epi8(count_of(half), borrowed);
    const int count = (most_of(left) + 3) / 4;
    const __m128i there = last ? left : _mm_add_epi8(left, count_of(half + 1));
    const __m128i taken = _mm_min_epu8(there, _mm_set1_epi8(static_cast<char>(4 * count)));
    borrowed = last ? _mm_setzero_si128() : _mm_sub_epi8(taken, left);
    const __m512i everywhere = _mm512_broadcast_i32x4(taken);
    // The second copy of the activations begins a half later.
    const size_t in_block = half * kHalf % kBlockColumns;
    const __m128i window =
        _mm_set1_epi32(static_cast<int>(half % 2 == 0 ? in_block : kBlockColumns + in_block - kHalf));
    const __m512i flip = _mm512_set1_epi8(static_cast<char>(half % 2 * kHalf));
    for (int done = 0; done < count; done += 4) {
      __m512i code[4], column[4];
      four_steps(lists.codes, lists.stride, at, code);
      four_steps(lists.columns, lists.stride, at, column);
      const __m512i index = _mm512_add_epi8(bytes, _mm512_set1_epi8(static_cast<char>(4 * done)));
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const __m512i valid =
            _mm512_shuffle_epi8(everywhere, _mm512_add_epi8(rows, _mm512_set1_epi8(static_cast<char>(i))));
        code[i] = _mm512_maskz_mov_epi8(_mm512_cmplt_epu8_mask(index, valid), code[i]);
      }
      transpose_lanes(code);
      transpose_lanes(column);
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) {
        std::byte* const to = steps.data + (steps.count + static_cast<size_t>(s)) * kStepBytes;
        _mm512_store_si512(to, code[s]);
        _mm512_store_si512(to + 64, _mm512_xor_si512(column[s], flip));
      }
      _mm_storeu_si128(reinterpret_cast<__m128i*>(steps.windows + steps.count), window);
      const int made = count - done < 4 ? count - done : 4;
      steps.count += static_cast<size_t>(made);
      if (done + 4 < count)
        _mm512_store_si512(at, _mm512_add_epi32(_mm512_load_si512(at), _mm512_set1_epi32(16)));
    }
    position = _mm512_add_epi32(position, _mm512_cvtepu8_epi32(taken));
    _mm512_store_si512(at, position);
    at_end(half + 1);
  }
}

// Adds steps [begin, end) of T tokens, kBlockStride bytes apart from `x` on, to their accumulators.
template <int T>
__attribute__((always_inline)) inline void multiply_steps(const Steps& steps, size_t begin, size_t end,
                                                          const std::byte* x, __m512i (&acc)[T]) {
  const std::byte* step = steps.data + begin * kStepBytes;
  for (size_t s = begin; s < end; ++s, step += kStepBytes) {
    const __m512i code = _mm512_load_si512(step), column = _mm512_load_si512(step + 64);
    const std::byte* window = x + steps.windows[s];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const __m512i a = _mm512_load_si512(window + static_cast<size_t>(t) * kBlockStride);
      acc[t] = _mm512_dpbusd_epi32(acc[t], _mm512_permutexvar_epi8(column, a), code);
      // One register from step to step: GCC 12 copies the accumulators about where they begin alike.
      __asm__("" : "+v"(acc[t]));
    }
  }
}

}  // namespace
}  // namespace filigree::linear
