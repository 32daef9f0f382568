#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention/attention.h"
#include "kernels/simd/math.h"

// One chunk of 64 keys against a tile of up to V::rows query rows: scores, softmax, weighted values. Each row's sums run in an
// order of their own, so how rows are tiled and how many blocks are walked together changes nothing but speed.

namespace filigree {
namespace {

template <class V>
struct LoadF32 {
  using T = float;
  static constexpr bool converts = false;
  static typename V::F at(const T* p) { return V::load(p); }
};
template <class V>
struct LoadF16 {
  using T = uint16_t;
  static constexpr bool converts = true;
  static typename V::F at(const T* p) { return V::load_f16(p); }
};
template <class V>
struct LoadBf16 {
  using T = uint16_t;
  static constexpr bool converts = true;
  static typename V::F at(const T* p) { return V::load_bf16(p); }
};
template <class V>
struct LoadI8 {
  using T = int8_t;
  static constexpr bool converts = true;
  static typename V::F at(const T* p) { return V::load_i8(p); }
};

constexpr int kMaxTileRows = 8;

struct Chunk {
  const void* keys[4];
  const void* values[4];
  const float* key_scales[4] = {};  // null unless i8
  const float* value_scales[4] = {};
  int block_begin, block_end;  // the blocks that hold keys some row sees
};

struct RowTile {
  int rows;
  const float* q;                              // [rows][padded]
  float* scores;                               // [rows][64], becomes the probabilities
  float* acc;                                  // [rows][padded]
  float* sums;                                 // [rows][16]
  float* max;                                  // [rows]
  int begin[kMaxTileRows], end[kMaxTileRows];  // keys of this chunk that each row sees
};

// scores[r][16 b ..] = sum over d of q[r][d] * keys[b][d][..]
template <class V, class L, int R, int B>
void score_blocks(const void* const* keys, const float* q, size_t head_dim, size_t padded, float* scores) {
  typename V::F acc[R][B];
  const typename L::T* k[B];
  for (int b = 0; b < B; ++b) k[b] = static_cast<const typename L::T*>(keys[b]);
  for (int r = 0; r < R; ++r) {
    for (int b = 0; b < B; ++b) acc[r][b] = V::zero();
  }
  for (size_t d = 0; d < head_dim; ++d) {
    typename V::F key[B];
    for (int b = 0; b < B; ++b) key[b] = L::at(k[b] + 16 * d);
    for (int r = 0; r < R; ++r) {
      const auto x = V::set(q[static_cast<size_t>(r) * padded + d]);
      for (int b = 0; b < B; ++b) acc[r][b] = V::fma(x, key[b], acc[r][b]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int b = 0; b < B; ++b) V::store(scores + r * kAttentionChunk + 16 * b, acc[r][b]);
  }
}

// acc[r][d ..] = acc[r][d ..] * scale[r] + sum over tokens of p[r][token] * values[token][d ..], D vectors of 16 from d on
template <class V, class L, int R, int D>
void weigh_values(const Chunk& chunk, int token_begin, int token_end, const float* p, const float* scale,
                  size_t d, size_t padded, float* acc) {
  typename V::F sum[R][D];
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < D; ++j) {
      sum[r][j] = V::mul(V::load(acc + static_cast<size_t>(r) * padded + d + 16 * static_cast<size_t>(j)),
                         V::set(scale[r]));
    }
  }
  for (int token = token_begin; token < token_end;) {
    const int b = token / 16, stop = token_end < 16 * (b + 1) ? token_end : 16 * (b + 1);
    const typename L::T* v =
        static_cast<const typename L::T*>(chunk.values[b]) + static_cast<size_t>(token % 16) * padded + d;
    for (; token < stop; ++token, v += padded) {
      typename V::F value[D];
      for (int j = 0; j < D; ++j) value[j] = L::at(v + 16 * j);
      for (int r = 0; r < R; ++r) {
        const auto x = V::set(p[r * kAttentionChunk + token]);
        for (int j = 0; j < D; ++j) sum[r][j] = V::fma(x, value[j], sum[r][j]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int j = 0; j < D; ++j) {
      V::store(acc + static_cast<size_t>(r) * padded + d + 16 * static_cast<size_t>(j), sum[r][j]);
    }
  }
}

// Masks and scales the scores, updates each row's maximum and sum, leaves the probabilities in their place, and the factor by
// which the row's accumulator shrinks in scale[r]. Keys a row does not see get 0 exactly.
template <class V>
void softmax_tile(const Chunk& chunk, const RowTile& tile, float* scale) {
  constexpr int blocks = kAttentionChunk / 16;
  const float none = -__builtin_inff();
  const bool scaled = chunk.key_scales[chunk.block_begin] != nullptr;
  float before[16] = {}, reference[16] = {};
  for (int r = 0; r < tile.rows; ++r) {
    float* row = tile.scores + r * kAttentionChunk;
    auto largest = V::set(none);
    for (int b = 0; b < blocks; ++b) {
      auto s = V::set(none);
      if (16 * b < tile.end[r] && 16 * (b + 1) > tile.begin[r]) {
        s = V::load(row + 16 * b);
        if (scaled) s = V::mul(s, V::load(chunk.key_scales[b]));
        s = V::keep(s, tile.begin[r] - 16 * b, tile.end[r] - 16 * b, none);
      }
      V::store(row + 16 * b, s);
      largest = V::max(largest, s);
    }
    const float here = V::reduce_max(largest);
    const float max = tile.max[r] > here ? tile.max[r] : here;
    before[r] = tile.max[r];
    // A row that has seen no key yet has maximum -inf; subtracting it would make NaN of its zeros.
    reference[r] = max == none ? 0.0f : max;
    tile.max[r] = max;
  }
  float shrink[16];
  V::store(shrink, exp2<V>(V::sub(V::load(before), V::load(reference))));
  for (int r = 0; r < tile.rows; ++r) {
    float* row = tile.scores + r * kAttentionChunk;
    const auto max = V::set(reference[r]);
    typename V::F p[blocks];
    for (int b = 0; b < blocks; ++b) p[b] = exp2<V>(V::sub(V::load(row + 16 * b), max));
    const auto sum = V::add(V::add(p[0], p[1]), V::add(p[2], p[3]));
    V::store(tile.sums + 16 * r, V::fma(V::load(tile.sums + 16 * r), V::set(shrink[r]), sum));
    for (int b = 0; b < blocks; ++b) {
      if (scaled && 16 * b < tile.end[r] && 16 * (b + 1) > tile.begin[r]) {
        p[b] = V::mul(p[b], V::load(chunk.value_scales[b]));
        p[b] = V::keep(p[b], tile.begin[r] - 16 * b, tile.end[r] - 16 * b, 0.0f);
      }
      V::store(row + 16 * b, p[b]);
    }
    scale[r] = shrink[r];
  }
}

template <class V, class L, int R>
void attend_rows(const Chunk& chunk, const RowTile& tile, size_t head_dim, size_t padded) {
  constexpr int fit = V::accumulators / R;
  constexpr int B = fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
  int begin = kAttentionChunk, end = 0;
  for (int r = 0; r < R; ++r) {
    if (tile.end[r] <= tile.begin[r]) continue;
    begin = tile.begin[r] < begin ? tile.begin[r] : begin;
    end = tile.end[r] > end ? tile.end[r] : end;
  }
  int b = begin / 16;
  const int stop = (end + 15) / 16;
  for (; b + B <= stop; b += B) {
    score_blocks<V, L, R, B>(chunk.keys + b, tile.q, head_dim, padded, tile.scores + 16 * b);
  }
  for (; b < stop; ++b)
    score_blocks<V, L, R, 1>(chunk.keys + b, tile.q, head_dim, padded, tile.scores + 16 * b);

  float scale[kMaxTileRows];
  softmax_tile<V>(chunk, tile, scale);

  size_t d = 0;
  for (; d + 16 * B <= padded; d += 16 * B) {
    weigh_values<V, L, R, B>(chunk, begin, end, tile.scores, scale, d, padded, tile.acc);
  }
  for (; d < padded; d += 16)
    weigh_values<V, L, R, 1>(chunk, begin, end, tile.scores, scale, d, padded, tile.acc);
}

template <class V, class L>
void attend_tile(const Chunk& chunk, const RowTile& tile, size_t head_dim, size_t padded) {
  static_assert(V::rows == 4 || V::rows == 8);
  if constexpr (V::rows == 8) {
    switch (tile.rows) {
      case 8:
        return attend_rows<V, L, 8>(chunk, tile, head_dim, padded);
      case 7:
        return attend_rows<V, L, 7>(chunk, tile, head_dim, padded);
      case 6:
        return attend_rows<V, L, 6>(chunk, tile, head_dim, padded);
      case 5:
        return attend_rows<V, L, 5>(chunk, tile, head_dim, padded);
    }
  }
  switch (tile.rows) {
    case 4:
      return attend_rows<V, L, 4>(chunk, tile, head_dim, padded);
    case 3:
      return attend_rows<V, L, 3>(chunk, tile, head_dim, padded);
    case 2:
      return attend_rows<V, L, 2>(chunk, tile, head_dim, padded);
    case 1:
      return attend_rows<V, L, 1>(chunk, tile, head_dim, padded);
  }
}

}  // namespace
}  // namespace filigree
