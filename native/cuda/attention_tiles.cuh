#pragma once

#include "cuda/factors.cuh"
#include "cuda/pages.cuh"

// A warp's share of attention of decoding: a block of the cache (16 positions of one key head) in registers, its scores and its weighted
// sums by mma.sync. Lane l is g = l / 4, q = l % 4 of a fragment; loads are of 16 bytes and need no shuffle:
//   scores: queries (rows 0 to 7; rows 8 to 15 hold what rounding them left) times keys: lane (g, q) has a quarter of every 64 bytes of
//           positions g and 8 + g; the dimensions of a product are permuted alike on both sides;
//   sums:   values, transposed, times weights: lane (g, q) has every eighth load of positions 2 q, 2 q + 1, 8 + 2 q and 9 + 2 q, and those
//           are the positions of the scores it holds.

namespace filigree::cuda {

// Query heads of a block. Weights of bf16 have columns for what rounding leaves of them, too.
template <class T>
inline constexpr uint32_t kMostHeads = std::is_same_v<T, __nv_bfloat16> ? 4 : 8;

// Fragments of queries: [dimensions / 16][lane] of 16 bytes.
inline constexpr uint32_t kFragmentBytes = 32 * 16;

// A query head, times `scale`, into the fragments.
template <class T, uint32_t Dims>
FILIGREE_DEVICE void put_query(uint4* fragments, uint32_t head, const HeadPairs& pairs, float scale,
                               uint32_t lane, uint32_t half) {
  constexpr uint32_t kElements = 16 / sizeof(T);
  constexpr const Factor<T>* kFactor = nullptr;
  const auto put = [&](uint32_t d, float value) {
    const uint32_t j = d % kElements, product = d / (4 * kElements) * (kElements / 4) + j / 4;
    const uint32_t high = round_pair(value, 0, kFactor),
                   low = round_pair(value - widen_pair(high, kFactor).x, 0, kFactor);
    for (uint32_t g = head; g < 8; g += kMostHeads<T>) {
      uint16_t* const to = reinterpret_cast<uint16_t*>(fragments + product * 32 + g * 4 + d / kElements % 4) +
                           j % 4 / 2 * 4 + j % 2;
      to[0] = static_cast<uint16_t>(high), to[2] = static_cast<uint16_t>(low);
    }
  };
#pragma unroll
  for (uint32_t i = 0; i < Dims / 64; ++i) {
    const uint32_t d = lane + 32 * i;
    if (d < half) put(d, pairs.pair[i].x * scale), put(half + d, pairs.pair[i].y * scale);
  }
}

// One key head's block of the cache, for head dimensions up to Dims.
template <class T, uint32_t Dims>
struct CacheTile {
  static constexpr const T* kType = nullptr;
  static constexpr bool kScaled = KvTraits<T>::scaled;
  static constexpr uint32_t kElements = 16 / sizeof(T);  // of a load
  static constexpr uint32_t kKeyLoads = Dims / kElements / 4, kValueLoads = ceil_div(Dims / kElements, 8u);
  uint4 keys[2][kKeyLoads];               // of positions g, 8 + g
  uint4 values[kValueLoads][4];           // of positions 2 q, 2 q + 1, 8 + 2 q, 9 + 2 q
  float2 key_scales[2], value_scales[2];  // of those four

  static FILIGREE_DEVICE uint32_t value_row(uint32_t i, uint32_t q) { return i / 2 * 8 + 2 * q + i % 2; }

  FILIGREE_DEVICE void clear() {
#pragma unroll
    for (uint32_t c = 0; c < kKeyLoads; ++c) keys[0][c] = keys[1][c] = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (uint32_t c = 0; c < kValueLoads; ++c) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) values[c][i] = make_uint4(0, 0, 0, 0);
    }
    key_scales[0] = key_scales[1] = value_scales[0] = value_scales[1] = make_float2(1, 1);
  }
  static FILIGREE_DEVICE const uint4* of_page(const void* pages, const KvPages& kv, uint32_t page,
                                              uint32_t head) {
    const size_t at = static_cast<size_t>(page) * kv.kv_heads + head;
    return reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(pages) +
                                          at * head_bytes<T>(kv.head_dim));
  }
  static FILIGREE_DEVICE void fetch_scales(float2 (&to)[2], const uint4* page, uint32_t loads, uint32_t q) {
    const float2* const from = reinterpret_cast<const float2*>(page + kBlockTokens * loads);
    load_if(to[0], from + q, true), load_if(to[1], from + 4 + q, true);
  }
  FILIGREE_DEVICE void fetch_keys(const KvPages& kv, uint32_t page, uint32_t head, uint32_t lane) {
    const uint32_t g = lane / 4, q = lane % 4, loads = kv.head_dim / kElements;
    const uint4* const of = of_page(kv.keys, kv, page, head);
    const uint4* const from = of + g * loads + q;
#pragma unroll
    for (uint32_t c = 0; c < kKeyLoads; ++c) {
#pragma unroll
      for (uint32_t u = 0; u < 2; ++u) load_if(keys[u][c], from + u * 8 * loads + 4 * c, 4 * c + q < loads);
    }
    if constexpr (kScaled) fetch_scales(key_scales, of, loads, q);
  }
  // Of positions that are not stored nothing is read: what stands there may be no number.
  FILIGREE_DEVICE void fetch_values(const KvPages& kv, uint32_t page, uint32_t head, uint32_t lane,
                                    uint32_t first, uint32_t stored) {
    const uint32_t g = lane / 4, q = lane % 4, loads = kv.head_dim / kElements;
    const uint4* const of = of_page(kv.values, kv, page, head);
    const uint4* const from = of + 2 * q * loads + g;
#pragma unroll
    for (uint32_t c = 0; c < kValueLoads; ++c) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i)
        load_if(values[c][i], from + value_row(i, 0) * loads + 8 * c,
                8 * c + g < loads && first + value_row(i, q) < stored);
    }
    if constexpr (kScaled) fetch_scales(value_scales, of, loads, q);
  }

  // The row of this step, which the cache did not have when the block was fetched.
  static FILIGREE_DEVICE void patch_scales(float2 (&scales)[2], float scale, uint32_t slot, uint32_t q) {
#pragma unroll
    for (uint32_t u = 0; u < 2; ++u) {
      if (slot == 8 * u + 2 * q) scales[u].x = scale;
      if (slot == 8 * u + 2 * q + 1) scales[u].y = scale;
    }
  }
  FILIGREE_DEVICE void patch_keys(const T* fresh, const float* scale, uint32_t slot, uint32_t dim,
                                  uint32_t lane) {
    const uint32_t g = lane / 4, q = lane % 4, loads = dim / kElements;
#pragma unroll
    for (uint32_t u = 0; u < 2; ++u) {
#pragma unroll
      for (uint32_t c = 0; c < kKeyLoads; ++c) {
        if (slot == 8 * u + g && 4 * c + q < loads)
          keys[u][c] = reinterpret_cast<const uint4*>(fresh)[4 * c + q];
      }
    }
    if constexpr (kScaled) patch_scales(key_scales, *scale, slot, q);
  }
  FILIGREE_DEVICE void patch_values(const T* fresh, const float* scale, uint32_t slot, uint32_t dim,
                                    uint32_t lane) {
    const uint32_t g = lane / 4, q = lane % 4, loads = dim / kElements;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
#pragma unroll
      for (uint32_t c = 0; c < kValueLoads; ++c) {
        if (slot == value_row(i, q) && 8 * c + g < loads)
          values[c][i] = reinterpret_cast<const uint4*>(fresh)[8 * c + g];
      }
    }
    if constexpr (kScaled) patch_scales(value_scales, *scale, slot, q);
  }

  // scores[u][e]: of query head g and position 8 u + 2 q + e, without masking.
  FILIGREE_DEVICE void scores(const uint4* query, uint32_t lane, float (&to)[2][2]) const {
    float sum[2][4] = {};
#pragma unroll
    for (uint32_t k = 0; k < Dims / 16; ++k) {
      const uint4 fragment = query[k * 32 + lane];
      const uint32_t a[4] = {fragment.x, fragment.y, fragment.z, fragment.w};
#pragma unroll
      for (uint32_t u = 0; u < 2; ++u) {
        if constexpr (kScaled) {
          const uint2 b = widen_codes(word_of(keys[u][k / 4], k % 4), kType);
          multiply(sum[u], a, b.x, b.y, static_cast<const Factor<T>*>(nullptr));
        } else {
          multiply(sum[u], a, word_of(keys[u][k / 2], k % 2 * 2), word_of(keys[u][k / 2], k % 2 * 2 + 1),
                   kType);
        }
      }
    }
#pragma unroll
    for (uint32_t u = 0; u < 2; ++u) {
      to[u][0] = sum[u][0] + sum[u][2], to[u][1] = sum[u][1] + sum[u][3];
      if constexpr (kScaled) to[u][0] *= key_scales[u].x, to[u][1] *= key_scales[u].y;
    }
  }
};

// What a warp has added of its positions: lane (g, q) has of query heads 2 q and 2 q + 1 the columns of its loads of values, and of head g
// a quarter of the weights' total. A weight is 2^(score - reference). Where values have scales, the reference counts them in, so that
// weight * scale, which is rounded to f16, is within its range.
template <class T, uint32_t Dims>
struct WeightedSums {
  using Tile = CacheTile<T, Dims>;
  static constexpr const Factor<T>* kFactor = nullptr;
  static constexpr uint32_t kPairs = Tile::kElements / 2, kSums = Tile::kValueLoads * kPairs;
  float reference = -INFINITY, total = 0;
  float sum[kSums][4] = {};

  FILIGREE_DEVICE void raise(float most, uint32_t lane) {
    // A weight of 2^8 is as exact as one of 1: the reference follows no closer.
    if (!__any_sync(~0u, most > reference + 8)) return;
    const float higher = fmaxf(most, reference), factor = exp2_approx(reference - higher);
    reference = higher, total *= factor;
    const float first = __shfl_sync(~0u, factor, static_cast<int>(lane % 4 * 8)),
                second = __shfl_sync(~0u, factor, static_cast<int>(lane % 4 * 8 + 4));
#pragma unroll
    for (uint32_t t = 0; t < kSums; ++t)
      sum[t][0] *= first, sum[t][1] *= second, sum[t][2] *= first, sum[t][3] *= second;
  }
  FILIGREE_DEVICE void add(const Tile& tile, float (&scores)[2][2], uint32_t position, uint32_t begin,
                           uint32_t end, uint32_t lane) {
    const uint32_t g = lane / 4, q = lane % 4;
    float most = -INFINITY;
#pragma unroll
    for (uint32_t u = 0; u < 2; ++u) {
#pragma unroll
      for (uint32_t e = 0; e < 2; ++e) {
        const uint32_t p = position + 8 * u + 2 * q + e;
        if (p < begin || p >= end) scores[u][e] = -INFINITY;
        float counted = scores[u][e];
        if constexpr (Tile::kScaled)
          counted += __log2f(fmaxf(e == 0 ? tile.value_scales[u].x : tile.value_scales[u].y, 1e-30f));
        most = fmaxf(most, counted);
      }
    }
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    raise(most, lane);
    uint32_t b[2];
#pragma unroll
    for (uint32_t u = 0; u < 2; ++u) {
      float w[2] = {exp2_approx(scores[u][0] - reference), exp2_approx(scores[u][1] - reference)};
      total += w[0] + w[1];
      if constexpr (Tile::kScaled) {
        w[0] = w[0] > 0 ? w[0] * tile.value_scales[u].x : 0.0f;
        w[1] = w[1] > 0 ? w[1] * tile.value_scales[u].y : 0.0f;
      }
      b[u] = round_pair(w[0], w[1], kFactor);
      if constexpr (kMostHeads<T> == 4) {
        const float2 rounded = widen_pair(b[u], kFactor);
        if (g >= 4) b[u] = round_pair(w[0] - rounded.x, w[1] - rounded.y, kFactor);
      }
    }
#pragma unroll
    for (uint32_t c = 0; c < Tile::kValueLoads; ++c) {
      const uint4(&v)[4] = tile.values[c];
      if constexpr (Tile::kScaled) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
#pragma unroll
          for (uint32_t h = 0; h < 2; ++h) {
            const uint32_t both = h ? 0x7362 : 0x5140;  // two codes of each position
            const uint2 low = widen_codes(prmt(word_of(v[0], i), word_of(v[1], i), both), Tile::kType),
                        high = widen_codes(prmt(word_of(v[2], i), word_of(v[3], i), both), Tile::kType);
            const uint32_t a[4] = {low.x, low.y, high.x, high.y};
            multiply(sum[c * kPairs + 2 * i + h], a, b[0], b[1], kFactor);
          }
        }
      } else {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          const uint32_t a[4] = {prmt(word_of(v[0], i), word_of(v[1], i), 0x5410),
                                 prmt(word_of(v[0], i), word_of(v[1], i), 0x7632),
                                 prmt(word_of(v[2], i), word_of(v[3], i), 0x5410),
                                 prmt(word_of(v[2], i), word_of(v[3], i), 0x7632)};
          multiply(sum[c * kPairs + i], a, b[0], b[1], kFactor);
        }
      }
    }
  }

  // weights [8]: reference and total of each head; sums [heads][dim].
  FILIGREE_DEVICE void store(float2* weights, float* sums, uint32_t heads, uint32_t dim, uint32_t lane) {
    const uint32_t g = lane / 4, q = lane % 4;
    float of_all = total + __shfl_xor_sync(~0u, total, 1);
    of_all += __shfl_xor_sync(~0u, of_all, 2);
    if (q == 0 && g < heads) weights[g] = make_float2(reference, of_all);
    if constexpr (kMostHeads<T> == 4) {
#pragma unroll
      for (uint32_t t = 0; t < kSums; ++t) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) sum[t][i] += __shfl_xor_sync(~0u, sum[t][i], 2);
      }
    }
#pragma unroll
    for (uint32_t e = 0; e < 2; ++e) {
      if (2 * q + e >= heads) continue;
      float* const to = sums + (2 * q + e) * dim;
#pragma unroll
      for (uint32_t c = 0; c < Tile::kValueLoads; ++c) {
        const uint32_t load = g + 8 * c;
        if (load * Tile::kElements >= dim) continue;
#pragma unroll
        for (uint32_t i = 0; i < kPairs; i += 2)
          reinterpret_cast<float4*>(to + load * Tile::kElements)[i / 2] =
              make_float4(sum[c * kPairs + i][e], sum[c * kPairs + i][2 + e], sum[c * kPairs + i + 1][e],
                          sum[c * kPairs + i + 1][2 + e]);
      }
    }
  }
};

}  // namespace filigree::cuda
