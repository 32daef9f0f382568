#pragma once
// i8 weights, dense and bitmask, on 256-bit registers, written once for two ways to multiply bytes (a Dot, from avx2_i8.cc or
// avxvnni_i8.cc). Decode multiplies in registers as it streams; batches expand a block of K of two panels into the first-level
// cache and run all tokens over it.
//
// A Dot has: byte(x), the form of an activation its unsigned operand takes; one(acc, w, x, b) += w . x for one token, where b holds
// byte(x); Weights and load(w) once for several tokens; many(acc, weights, x), x in the form of `arranged`; bias, what the sums
// hold too much of per unit of code sum.
#include "kernels/linear/avx2_expand.h"

namespace filigree::linear {
namespace {

constexpr uint32_t kTokenTile = 4;     // 8 accumulators: 4 tokens by 16 rows
constexpr uint32_t kTokenChunk = 128;  // tokens that share one expansion
constexpr uint32_t kBlockTiles = 128;  // 16 KiB: 512 columns of two panels
constexpr size_t kAheadMask = 1024;    // bytes of values fetched ahead, each panel
constexpr size_t kAheadDense = 4096;

template <class Dot>
FILIGREE_INLINE void store_i8(const Matrix& m, uint32_t row, __m256i sum, float scale, float* out) {
  if (Dot::kBias != 0) {
    sum =
        _mm256_sub_epi32(sum, _mm256_mullo_epi32(load256(m.code_sums + row), _mm256_set1_epi32(Dot::kBias)));
  }
  const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(m.row_scales + row));
  store_rows(out, row, m.rows, _mm256_mul_ps(scaled, _mm256_set1_ps(scale)));
}

// Sums of rows in quads, A low and B high: quads[g] = rows 4g..4g+3.
template <class Dot>
FILIGREE_INLINE void store_quads(const Matrix& m, uint32_t panel_a, uint32_t panel_b, const __m256i* quads,
                                 uint32_t half, float scale, float* out) {
  const uint32_t row = half * 8;
  store_i8<Dot>(m, panel_a * kPanelRows + row, _mm256_permute2x128_si256(quads[0], quads[1], 0x20), scale,
                out);
  if (panel_b != panel_a) {
    store_i8<Dot>(m, panel_b * kPanelRows + row, _mm256_permute2x128_si256(quads[0], quads[1], 0x31), scale,
                  out);
  }
}

template <class Dot, int P>
void decode_dense(const Matrix& m, const int8_t* x, const uint8_t* b, float scale, uint32_t panel,
                  uint32_t apart, float* out) {
  const size_t tiles = tile_count(m);
  const std::byte* w = m.values + size_t{panel} * tiles * 64;
  __m256i acc[P][4];
  for (auto& p : acc) {
    for (auto& a : p) a = _mm256_setzero_si256();
  }
  const auto step = [&](size_t t, int second) __attribute__((always_inline)) {
    const __m256i xs = broadcast4(x + 4 * t), xb = broadcast4(b + 4 * t);
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
      const std::byte* from = w + (p * apart * tiles + t) * 64;
      prefetch(from + kAheadDense);
      acc[p][second] = Dot::one(acc[p][second], load256(from), xs, xb);
      acc[p][second + 1] = Dot::one(acc[p][second + 1], load256(from + 32), xs, xb);
    }
  };
  size_t t = 0;
  for (; t + 2 <= tiles; t += 2) {
    step(t, 0);
    step(t + 1, 2);
  }
  if (t < tiles) step(t, 0);
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    const uint32_t row = (panel + static_cast<uint32_t>(p) * apart) * kPanelRows;
    store_i8<Dot>(m, row, _mm256_add_epi32(acc[p][0], acc[p][2]), scale, out);
    store_i8<Dot>(m, row + 8, _mm256_add_epi32(acc[p][1], acc[p][3]), scale, out);
  }
}

// Panels A and B (the same one at an odd end).
template <class Dot>
void decode_bitmask(const Matrix& m, const int8_t* x, const uint8_t* bx, float scale, uint32_t panel_a,
                    uint32_t panel_b, float* out) {
  const size_t tiles = tile_count(m);
  const uint64_t* masks_a = reinterpret_cast<const uint64_t*>(m.masks) + panel_a * tiles;
  const uint64_t* masks_b = reinterpret_cast<const uint64_t*>(m.masks) + panel_b * tiles;
  const uint8_t* a = reinterpret_cast<const uint8_t*>(m.values) + m.offsets[panel_a];
  const uint8_t* b = reinterpret_cast<const uint8_t*>(m.values) + m.offsets[panel_b];
  __m256i even0 = _mm256_setzero_si256(), odd0 = even0, even1 = even0, odd1 = even0;
  const auto step = [&](size_t t, const uint64_t* ma, const uint64_t* mb) __attribute__((always_inline)) {
    __m256i even[4], odd[4];
    const bool wide = places_of_octets(load_lanes(ma, mb), even, odd);
    prefetch(a + kAheadMask);
    prefetch(b + kAheadMask);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m256i xs = broadcast4(x + 4 * (t + i)), xb = broadcast4(bx + 4 * (t + i));
      const uint8_t* a1 = a + __builtin_popcount(static_cast<uint32_t>(ma[i]));
      const uint8_t* b1 = b + __builtin_popcount(static_cast<uint32_t>(mb[i]));
      const __m256i v0 = load_lanes(a, b), v1 = load_lanes(a1, b1);
      if (!wide) [[likely]] {
        even0 = Dot::one(even0, _mm256_shuffle_epi8(v0, even[2 * i]), xs, xb);
        odd0 = Dot::one(odd0, _mm256_shuffle_epi8(v0, odd[2 * i]), xs, xb);
        even1 = Dot::one(even1, _mm256_shuffle_epi8(v1, even[2 * i + 1]), xs, xb);
        odd1 = Dot::one(odd1, _mm256_shuffle_epi8(v1, odd[2 * i + 1]), xs, xb);
      } else {
        const __m256i u0 = load_lanes(a + 16, b + 16), u1 = load_lanes(a1 + 16, b1 + 16);
        even0 = Dot::one(even0, select32(v0, u0, even[2 * i]), xs, xb);
        odd0 = Dot::one(odd0, select32(v0, u0, odd[2 * i]), xs, xb);
        even1 = Dot::one(even1, select32(v1, u1, even[2 * i + 1]), xs, xb);
        odd1 = Dot::one(odd1, select32(v1, u1, odd[2 * i + 1]), xs, xb);
      }
      a += __builtin_popcountll(ma[i]);
      b += __builtin_popcountll(mb[i]);
    }
  };
  size_t t = 0;
  for (; t + 2 <= tiles; t += 2) step(t, masks_a + t, masks_b + t);
  if (t < tiles) {
    const MaskPair pad_a = last_mask(masks_a + t), pad_b = last_mask(masks_b + t);
    step(t, pad_a.word, pad_b.word);
  }
  __m256i quads[2];
  merge_rows(even0, odd0, quads);
  store_quads<Dot>(m, panel_a, panel_b, quads, 0, scale, out);
  merge_rows(even1, odd1, quads);
  store_quads<Dot>(m, panel_a, panel_b, quads, 1, scale, out);
}

template <class Dot>
FILIGREE_INLINE const uint8_t* form_bytes(const Matrix& m, const int8_t* x, std::byte* workspace) {
  uint8_t* b = reinterpret_cast<uint8_t*>(workspace);
  // Input rows are zero-padded to kInputPadding columns, a multiple of 32.
  for (size_t k = 0; k < padded_cols(m); k += 32) store256(b + k, Dot::byte(load256(x + k)));
  return b;
}

template <class Dot>
void decode_i8_dense(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                     std::byte* workspace) {
  const uint8_t* b = form_bytes<Dot>(m, in.i8, workspace);
  // One panel from each half of the range: both streams of memory run on from panel to panel, and so do their prefetches.
  const uint32_t half = (end - begin) / 2;
  for (uint32_t p = 0; p < half; ++p) decode_dense<Dot, 2>(m, in.i8, b, in.scales[0], begin + p, half, out);
  if ((end - begin) % 2 != 0) decode_dense<Dot, 1>(m, in.i8, b, in.scales[0], end - 1, 0, out);
}

template <class Dot>
void decode_i8_bitmask(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                       std::byte* workspace) {
  const uint8_t* b = form_bytes<Dot>(m, in.i8, workspace);
  for (uint32_t p = begin; p < end; p += 2)
    decode_bitmask<Dot>(m, in.i8, b, in.scales[0], p, std::min(p + 1, end - 1), out);
}

// What a pass over a block fetches for a later one: `step` bytes for each tile, spread over the pass because more lines at once than
// the first-level cache waits for stop the loads behind them.
struct Ahead {
  const uint8_t* from;
  size_t step;
};

// sums[TB][16] += block * x; block: two registers of 8 rows x 4 columns a tile, tiles `stride` bytes apart; x[tile][kTokenTile][4].
template <class Dot, int TB>
void multiply(const uint8_t* block, size_t stride, const uint8_t* x, size_t tiles, Ahead ahead,
              int32_t* sums) {
  __m256i acc[TB][2];
#pragma GCC unroll 8
  for (int i = 0; i < TB; ++i) {
    acc[i][0] = load256(sums + i * 16);
    acc[i][1] = load256(sums + i * 16 + 8);
  }
  for (size_t t = 0; t < tiles; ++t) {
    prefetch(ahead.from + t * ahead.step);
    const auto w0 = Dot::load(load256(block + t * stride)), w1 = Dot::load(load256(block + t * stride + 32));
#pragma GCC unroll 4
    for (int i = 0; i < TB; ++i) {
      const __m256i b = broadcast4(x + t * 4 * kTokenTile + 4 * i);
      acc[i][0] = Dot::many(acc[i][0], w0, b);
      acc[i][1] = Dot::many(acc[i][1], w1, b);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < TB; ++i) {
    store256(sums + i * 16, acc[i][0]);
    store256(sums + i * 16 + 8, acc[i][1]);
  }
}

// x[tile of tokens][tile of columns][kTokenTile][4], missing tokens left as they are (never used).
template <class Dot>
void arrange(const Matrix& m, const int8_t* x, size_t stride, uint32_t tokens, uint8_t* out) {
  const size_t tiles = tile_count(m);
  for (uint32_t i = 0; i < tokens; ++i) {
    uint8_t* to = out + (size_t{i / kTokenTile} * tiles * kTokenTile + i % kTokenTile) * 4;
    for (size_t t = 0; t < tiles; ++t) {
      const uint32_t word = load_as<uint32_t>(x + i * stride + 4 * t) ^ Dot::kFlip;
      std::memcpy(to + t * 4 * kTokenTile, &word, 4);
    }
  }
}

struct PlaceCodes {
  FILIGREE_INLINE void put(uint8_t* to, __m256i values, __m256i place) const {
    store256(to, _mm256_shuffle_epi8(values, place));
  }
};

template <class Dot, bool kDense>
void batch_i8(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, size_t out_stride,
              std::byte* workspace) {
  using Multiply = void (*)(const uint8_t*, size_t, const uint8_t*, size_t, Ahead, int32_t*);
  constexpr Multiply kMultiply[kTokenTile + 1] = {nullptr, multiply<Dot, 1>, multiply<Dot, 2>,
                                                  multiply<Dot, 3>, multiply<Dot, 4>};
  const size_t tiles = tile_count(m);
  uint8_t* block = reinterpret_cast<uint8_t*>(workspace);
  int32_t* sums = reinterpret_cast<int32_t*>(block + kBlockTiles * 128);
  uint8_t* arranged = reinterpret_cast<uint8_t*>(sums + 2 * kTokenChunk * 16);
  const uint8_t* values = reinterpret_cast<const uint8_t*>(m.values);
  const uint64_t* masks = reinterpret_cast<const uint64_t*>(m.masks);
  for (uint32_t first = 0; first < in.tokens; first += kTokenChunk) {
    const uint32_t tokens = std::min(kTokenChunk, in.tokens - first);
    arrange<Dot>(m, in.i8 + first * in.stride, in.stride, tokens, arranged);
    for (uint32_t a = begin; a < end; a += 2) {
      const uint32_t b = std::min(a + 1, end - 1), halves = kDense && a == b ? 1 : 2;
      const uint8_t* next_a = kDense ? nullptr : values + m.offsets[a];
      const uint8_t* next_b = kDense ? nullptr : values + m.offsets[b];
      for (uint32_t half = 0; half < 2; ++half) std::memset(sums + half * kTokenChunk * 16, 0, tokens * 64);
      for (size_t t0 = 0; t0 < tiles; t0 += kBlockTiles) {
        const size_t n = std::min<size_t>(kBlockTiles, tiles - t0);
        if (!kDense)
          expand_tiles(masks + a * tiles + t0, masks + b * tiles + t0, next_a, next_b, n, block, kAheadMask,
                       PlaceCodes());
        for (uint32_t half = 0; half < halves; ++half) {
          // Dense: a half is a panel. Expanded: rows 8 half .. 8 half + 7 of both panels.
          const uint8_t* w = kDense ? values + ((a + half) * tiles + t0) * 64 : block + 64 * half;
          const uint32_t passes = (tokens + kTokenTile - 1) / kTokenTile;
          const size_t ahead_step = kDense && first == 0 ? 64 / passes : 0;
          const uint8_t* ahead = w + kBlockTiles * 64;
          for (uint32_t i = 0; i < tokens; i += kTokenTile) {
            kMultiply[std::min(kTokenTile, tokens - i)](
                w, kDense ? 64 : 128, arranged + (i * tiles + t0 * kTokenTile) * 4, n, {ahead, ahead_step},
                sums + (half * kTokenChunk + i) * 16);
            ahead += n * ahead_step;
          }
        }
      }
      for (uint32_t i = 0; i < tokens; ++i) {
        float* to = out + (first + i) * out_stride;
        for (uint32_t half = 0; half < halves; ++half) {
          const int32_t* s = sums + (half * kTokenChunk + i) * 16;
          const __m256i pair[2] = {load256(s), load256(s + 8)};
          if (kDense) {
            store_i8<Dot>(m, (a + half) * kPanelRows, pair[0], in.scales[first + i], to);
            store_i8<Dot>(m, (a + half) * kPanelRows + 8, pair[1], in.scales[first + i], to);
          } else {
            store_quads<Dot>(m, a, b, pair, half, in.scales[first + i], to);
          }
        }
      }
    }
  }
}

size_t i8_workspace(const MatrixSpec& m, uint32_t tokens) {
  if (tokens == 1) return align64(padded_cols(m));
  const uint32_t chunk = (std::min(tokens, kTokenChunk) + kTokenTile - 1) / kTokenTile * kTokenTile;
  return kBlockTiles * 128 + 2 * size_t{kTokenChunk} * 16 * sizeof(int32_t) +
         align64(size_t{chunk} * padded_cols(m));
}

}  // namespace
}  // namespace filigree::linear

#define FILIGREE_I8_KERNELS(prefix, Dot)                                                                    \
  size_t prefix##_i8_workspace(const MatrixSpec& m, uint32_t tokens) { return i8_workspace(m, tokens); }    \
  void prefix##_i8_dense_decode(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, \
                                size_t, std::byte* workspace) {                                             \
    decode_i8_dense<Dot>(m, in, begin, end, out, workspace);                                                \
  }                                                                                                         \
  void prefix##_i8_bitmask_decode(const Matrix& m, const Input& in, uint32_t begin, uint32_t end,           \
                                  float* out, size_t, std::byte* workspace) {                               \
    decode_i8_bitmask<Dot>(m, in, begin, end, out, workspace);                                              \
  }                                                                                                         \
  void prefix##_i8_dense(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,        \
                         size_t out_stride, std::byte* workspace) {                                         \
    batch_i8<Dot, true>(m, in, begin, end, out, out_stride, workspace);                                     \
  }                                                                                                         \
  void prefix##_i8_bitmask(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,      \
                           size_t out_stride, std::byte* workspace) {                                       \
    batch_i8<Dot, false>(m, in, begin, end, out, out_stride, workspace);                                    \
  }
