#pragma once

#include "cuda/attention_plan.h"
#include "cuda/factors.cuh"
#include "cuda/pages.cuh"

// What a block of attention of prompts does with a tile of positions: copies its keys and values into shared memory, multiplies them with
// the queries of its warps, and adds values by weight, both by mma.sync. Lane l is g = l / 4, q = l % 4 of a fragment: it has scores,
// weights and sums of the queries in rows g and 8 + g, those of positions or columns 2 q and 2 q + 1 of every eight.

namespace filigree::cuda {

inline constexpr uint32_t kPromptWarps = 4, kPromptThreads = kPromptWarps * 32;
// Of a query that has seen nothing: finite, so that what it weighs is zero and not undefined.
inline constexpr float kNoReference = -1e30f;

template <class T, uint32_t Dims>
struct PromptTile {
  static constexpr bool kScaled = KvTraits<T>::scaled;
  static constexpr uint32_t kPositions = Dims > 128 ? 32 : kTilePositions, kColumns = Dims / 8;
  static constexpr uint32_t kQueryTiles = kTileQueries / (kPromptWarps * 16);  // of a warp
  static constexpr uint32_t kBlocks = Dims > (kScaled ? 64 : 128) ? 2 : 3;  // of a multiprocessor, at least
  // A row of keys or values in shared memory: 16 bytes more, so that eight rows meet no bank twice.
  static constexpr uint32_t kPitch = Dims * 2 + 16, kBytes = kPositions * kPitch;
  // The positions that a warp copies, of one block of the cache. Their codes and scales stay its own until the tile is free for them.
  static constexpr uint32_t kShare = kPositions / kPromptWarps,
                            kShareBytes = kScaled ? kShare * (Dims + 4) : 0;
  static_assert(kBlockTokens % kShare == 0 && kShare % 4 == 0);
  // Places in shared memory, in bytes.
  static constexpr uint32_t queries = 0,         // fragments, [16 queries][16 columns][lane] of 16 bytes
      keys = queries + kTileQueries * Dims * 2,  // [positions]
      values = keys + kBytes,                    // [positions]
      key_codes = values + kBytes,               // [warps] shares
      value_codes = key_codes + kPromptWarps * kShareBytes,
                            key_scales = value_codes + kPromptWarps * kShareBytes,  // [positions]
      value_scales = key_scales + (kScaled ? kPositions * 4 : 0),  // [positions] scale, its logarithm
      bytes = value_scales + (kScaled ? kPositions * 8 : 0);
};

// A warp's copies of keys and values of one key head.
template <class T, uint32_t Dims>
struct PromptCopies {
  using Tile = PromptTile<T, Dims>;
  const KvPages& kv;
  const int32_t* table;  // of blocks
  uint8_t* shared;
  uint32_t kv_head, end;  // positions from there on are not stored yet
  uint32_t warp, lane;

  FILIGREE_DEVICE uint32_t first_of(uint32_t step) const {
    return step * Tile::kPositions + warp * Tile::kShare;
  }
  // Starts them: elements into their tile, or codes beside it. What is not stored may be no number: zeros stand for it.
  FILIGREE_DEVICE void fetch(const void* pages, uint32_t step, uint32_t tile, uint32_t codes) const {
    const uint32_t dim = kv.head_dim, first = first_of(step), slot = first % kBlockTokens;
    const size_t page = static_cast<size_t>(table[min(first, end - 1) / kBlockTokens]);
    const uint8_t* const head =
        static_cast<const uint8_t*>(pages) + (page * kv.kv_heads + kv_head) * head_bytes<T>(dim);
    const uint32_t base = shared_address(shared);
    if constexpr (Tile::kScaled) {
      const uint32_t mine = base + codes + warp * Tile::kShareBytes;
      for (uint32_t i = lane; i < Tile::kShare * dim / 16; i += 32)
        copy_async16(mine + i * 16, head + slot * dim + i * 16);
      if (lane < Tile::kShare / 4)
        copy_async16(mine + Tile::kShare * Dims + lane * 16,
                     head + kBlockTokens * dim + slot * 4 + lane * 16);
    } else {
      const uint32_t mine = base + tile + warp * Tile::kShare * Tile::kPitch;
#pragma unroll
      for (uint32_t i = 0; i < Tile::kShare * Tile::kColumns; i += 32) {
        const uint32_t p = (i + lane) / Tile::kColumns, column = (i + lane) % Tile::kColumns;
        if (column * 8 < dim)
          copy_async16_or_zero(mine + p * Tile::kPitch + column * 16,
                               head + ((slot + p) * dim + column * 8) * 2, first + p < end);
      }
    }
    copy_async_commit();
  }
  // Codes that have come, as f16 in their tile; the scale of position `lane`.
  FILIGREE_DEVICE float widen(uint32_t step, uint32_t tile, uint32_t codes) const {
    const uint32_t dim = kv.head_dim, first = first_of(step);
    const uint8_t* const mine = shared + codes + warp * Tile::kShareBytes;
    uint8_t* const to = shared + tile + warp * Tile::kShare * Tile::kPitch;
#pragma unroll
    for (uint32_t i = 0; i < Tile::kShare * Tile::kColumns; i += 32) {
      const uint32_t p = (i + lane) / Tile::kColumns, column = (i + lane) % Tile::kColumns;
      if (column * 8 >= dim) continue;
      uint2 low = make_uint2(0, 0), high = low;
      if (first + p < end) {
        const uint2 eight = *reinterpret_cast<const uint2*>(mine + p * dim + column * 8);
        low = widen_codes(eight.x, static_cast<const T*>(nullptr));
        high = widen_codes(eight.y, static_cast<const T*>(nullptr));
      }
      *reinterpret_cast<uint4*>(to + p * Tile::kPitch + column * 16) =
          make_uint4(low.x, low.y, high.x, high.y);
    }
    if (lane >= Tile::kShare || first + lane >= end) return 0;
    return reinterpret_cast<const float*>(mine + Tile::kShare * Dims)[lane];
  }
  FILIGREE_DEVICE void widen_both(uint32_t step) const {
    const float key_scale = widen(step, Tile::keys, Tile::key_codes),
                value_scale = widen(step, Tile::values, Tile::value_codes);
    if (lane >= Tile::kShare) return;
    const uint32_t p = warp * Tile::kShare + lane;
    reinterpret_cast<float*>(shared + Tile::key_scales)[p] = key_scale;
    reinterpret_cast<float2*>(shared + Tile::value_scales)[p] =
        make_float2(value_scale, __log2f(fmaxf(value_scale, 1e-30f)));
  }
};

// Of one query and a split of its context, or of those so far: a weight is 2^(score - reference).
struct Weighing {
  float reference, total;
};

// What a warp has added of a split.
template <class T, uint32_t Dims>
struct PromptSums {
  using Tile = PromptTile<T, Dims>;
  static constexpr const Factor<T>* kFactor = nullptr;
  static constexpr uint32_t kM = Tile::kQueryTiles, kN = Tile::kPositions / 8;
  float sum[kM][Tile::kColumns][4] = {};
  Weighing weighing[kM][2];
  float score[kM][kN][4];
  uint32_t weight[kM][kN][2];  // pairs

  FILIGREE_DEVICE PromptSums() {
#pragma unroll
    for (uint32_t m = 0; m < kM; ++m) weighing[m][0] = weighing[m][1] = {kNoReference, 0};
  }

  // Of the tile's positions, without masking. query: a lane's fragments.
  FILIGREE_DEVICE void multiply_keys(const uint4* query, const uint8_t* shared, uint32_t lane) {
    const uint32_t from =
        shared_address(shared) + Tile::keys + (lane / 16 * 8 + lane % 8) * Tile::kPitch + lane / 8 % 2 * 16;
#pragma unroll
    for (uint32_t m = 0; m < kM; ++m) {
#pragma unroll
      for (uint32_t n = 0; n < kN; ++n) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) score[m][n][i] = 0;
      }
    }
#pragma unroll
    for (uint32_t k = 0; k < Dims / 16; ++k) {
      uint32_t a[kM][4];
#pragma unroll
      for (uint32_t m = 0; m < kM; ++m) {
        const uint4 fragment = query[(m * (Dims / 16) + k) * 32];
        a[m][0] = fragment.x, a[m][1] = fragment.y, a[m][2] = fragment.z, a[m][3] = fragment.w;
      }
#pragma unroll
      for (uint32_t n = 0; n < kN; n += 2) {
        const uint4 b = load_matrices(from + n * 8 * Tile::kPitch + k * 32);
#pragma unroll
        for (uint32_t m = 0; m < kM; ++m) {
          multiply(score[m][n], a[m], b.x, b.y, kFactor);
          multiply(score[m][n + 1], a[m], b.z, b.w, kFactor);
        }
      }
    }
    if constexpr (Tile::kScaled) {
      const float* const scales = reinterpret_cast<const float*>(shared + Tile::key_scales) + lane % 4 * 2;
#pragma unroll
      for (uint32_t n = 0; n < kN; ++n) {
        const float2 scale = *reinterpret_cast<const float2*>(scales + n * 8);
#pragma unroll
        for (uint32_t m = 0; m < kM; ++m) {
#pragma unroll
          for (uint32_t i = 0; i < 4; ++i)
            score[m][n][i] = __fmul_rn(score[m][n][i], i % 2 == 0 ? scale.x : scale.y);
        }
      }
    }
  }

  // Weights of the scores. Where values have scales, the reference counts them in, so that weight * scale, which is rounded to f16, is
  // within its range. Operations are spelled out: what the compiler makes of them must not depend on where it does.
  FILIGREE_DEVICE void weigh(const uint8_t* shared, uint32_t lane) {
    const float2* const of_values =
        reinterpret_cast<const float2*>(shared + Tile::value_scales) + lane % 4 * 2;
#pragma unroll
    for (uint32_t m = 0; m < kM; ++m) {
      float factor[2];
      bool raised = false;
#pragma unroll
      for (uint32_t h = 0; h < 2; ++h) {
        float most = -INFINITY;
#pragma unroll
        for (uint32_t n = 0; n < kN; ++n) {
          float2 two = make_float2(score[m][n][2 * h], score[m][n][2 * h + 1]);
          if constexpr (Tile::kScaled) {
            const float4 scales = *reinterpret_cast<const float4*>(of_values + n * 8);
            two = make_float2(__fadd_rn(two.x, scales.y), __fadd_rn(two.y, scales.w));
          }
          most = fmaxf(most, fmaxf(two.x, two.y));
        }
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        // A weight of 2^8 is as exact as one of 1: the reference follows no closer.
        Weighing& of = weighing[m][h];
        const float next = most > __fadd_rn(of.reference, 8) ? most : of.reference;
        raised = raised || next != of.reference;
        factor[h] = exp2_approx(__fadd_rn(of.reference, -next));
        of.reference = next;
      }
      if (__any_sync(~0u, raised)) {
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h) weighing[m][h].total = __fmul_rn(weighing[m][h].total, factor[h]);
#pragma unroll
        for (uint32_t c = 0; c < Tile::kColumns; ++c) {
#pragma unroll
          for (uint32_t i = 0; i < 4; ++i) sum[m][c][i] = __fmul_rn(sum[m][c][i], factor[i / 2]);
        }
      }
#pragma unroll
      for (uint32_t n = 0; n < kN; ++n) {
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h) {
          Weighing& of = weighing[m][h];
          float2 w = make_float2(exp2_approx(__fadd_rn(score[m][n][2 * h], -of.reference)),
                                 exp2_approx(__fadd_rn(score[m][n][2 * h + 1], -of.reference)));
          float2 counted = w;
          if constexpr (Tile::kScaled) {
            const float4 scales = *reinterpret_cast<const float4*>(of_values + n * 8);
            w = make_float2(__fmul_rn(w.x, scales.x), __fmul_rn(w.y, scales.z));
          }
          weight[m][n][h] = round_pair(w.x, w.y, kFactor);
          // What rounding to bf16 leaves of a weight is left out of both sums.
          if constexpr (std::is_same_v<T, __nv_bfloat16>) counted = widen_pair(weight[m][n][h], kFactor);
          of.total = __fadd_rn(of.total, __fadd_rn(counted.x, counted.y));
        }
      }
    }
  }

  FILIGREE_DEVICE void add_values(const uint8_t* shared, uint32_t lane) {
    const uint32_t from = shared_address(shared) + Tile::values + lane % 16 * Tile::kPitch + lane / 16 * 16;
#pragma unroll
    for (uint32_t k = 0; k < kN; k += 2) {
#pragma unroll
      for (uint32_t c = 0; c < Tile::kColumns; c += 2) {
        const uint4 b = load_matrices_transposed(from + k * 8 * Tile::kPitch + c * 16);
#pragma unroll
        for (uint32_t m = 0; m < kM; ++m) {
          const uint32_t a[4] = {weight[m][k][0], weight[m][k][1], weight[m][k + 1][0], weight[m][k + 1][1]};
          multiply(sum[m][c], a, b.x, b.y, kFactor);
          multiply(sum[m][c + 1], a, b.z, b.w, kFactor);
        }
      }
    }
  }
};

}  // namespace filigree::cuda
