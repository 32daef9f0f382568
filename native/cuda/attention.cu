#include "cuda/launch.cuh"
#include "cuda/layers.h"
#include "cuda/prompt_tiles.cuh"

// Attention of rows of prompts. A block has a tile of queries, rows times the query heads that share a key head, and walks the context in
// tiles of positions: copied into shared memory, the keys' while the tile before is summed, the values' while scores are made. A warp has
// 16 queries: scores, weights and sums stay in its registers, from one product of the tensor cores to the next.
//
// A row has the same bits whatever is attended beside it. Tiles of the context begin at multiples of their size, and its splits, whose
// size is the engine's, each start anew; a query's steps depend on its own scores alone, and positions it does not see weigh zero, which
// adds nothing. Splits are joined in their order, by the block that took them in turn or by the last one of several to finish.

namespace filigree::cuda {

// All of a block's shared memory.
extern __shared__ __align__(128) uint8_t shared[];

namespace {

constexpr uint32_t kThreads = kPromptThreads;
constexpr float kLog2e = 1.44269504f;

// What two splits' sums count in their join.
struct Join {
  Weighing of;
  float first, second;

  // Every operation spelled out: a row's splits are joined in two places.
  FILIGREE_DEVICE Join(const Weighing& a, const Weighing& b) {
    of.reference = fmaxf(a.reference, b.reference);
    first = exp2_approx(__fadd_rn(a.reference, -of.reference));
    second = exp2_approx(__fadd_rn(b.reference, -of.reference));
    of.total = sum(a.total, b.total);
  }
  FILIGREE_DEVICE float sum(float a, float b) const { return __fmaf_rn(b, second, __fmul_rn(a, first)); }
  FILIGREE_DEVICE float2 sum(const float2& a, const float2& b) const {
    return make_float2(sum(a.x, b.x), sum(a.y, b.y));
  }
};

FILIGREE_DEVICE void store_attended(__nv_bfloat16* to, const float2& sum, float total) {
  const float share = __frcp_rn(total);
  *reinterpret_cast<__nv_bfloat162*>(to) =
      __floats2bfloat162_rn(__fmul_rn(sum.x, share), __fmul_rn(sum.y, share));
}

template <class T, uint32_t Dims>
__global__ void __launch_bounds__(kThreads, PromptTile<T, Dims>::kBlocks)
    attend_kernel(const StepRows rows, const AttentionTile* tiles, const AttentionShape shape, const float* q,
                  const KvPages kv, float* partials, uint32_t* arrivals, __nv_bfloat16* out,
                  const uint32_t stride) {
  using Tile = PromptTile<T, Dims>;
  constexpr uint32_t kPositions = Tile::kPositions, kM = Tile::kQueryTiles;
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32, g = lane / 4, quad = lane % 4;
  const uint32_t kv_head = blockIdx.x, dim = kv.head_dim, group = shape.heads / kv.kv_heads;
  let_next_start();
  const AttentionTile tile = tiles[blockIdx.y];
  const auto output_of = [&](uint32_t query) {
    return out + static_cast<size_t>(tile.row + query / group) * stride +
           (kv_head * group + query % group) * dim;
  };
  if (tile.position < 0) {
    wait_for_inputs();
    if (blockIdx.z == 0) {
      for (uint32_t i = thread; i < tile.rows * group * dim; i += kThreads)
        output_of(i / dim)[i % dim] = __float2bfloat16(0.0f);
    }
    return;
  }
  // What a row sees, [oldest, position], and what some row of the tile does.
  const uint32_t position = static_cast<uint32_t>(tile.position), end = position + tile.rows;
  const auto oldest = [&](uint32_t at) {
    return shape.sliding_window > 0 && at >= shape.sliding_window ? at + 1 - shape.sliding_window : 0;
  };
  const uint32_t first_split = oldest(position) / shape.split_positions,
                 last_split = (end - 1) / shape.split_positions;
  uint32_t split = tile.divided ? first_split + blockIdx.z : first_split;
  if (split > last_split || (!tile.divided && blockIdx.z > 0)) return;
  const uint32_t split_tiles = shape.split_positions / kPositions;
  uint32_t step = max(oldest(position) / kPositions, split * split_tiles);  // tiles of the context
  const uint32_t steps_end =
      min((end - 1) / kPositions + 1, tile.divided ? (split + 1) * split_tiles : 0xffffffffu);

  const uint32_t queries = tile.rows * group, warp_query = warp * kM * 16;
  const bool idle = warp_query >= queries;
  // Of this warp's queries; a lane has those of rows g and 8 + g of each fragment.
  const uint32_t lowest = position + warp_query / group,
                 highest = min(position + (warp_query + kM * 16 - 1) / group, end - 1);
  uint32_t at[kM][2];
#pragma unroll
  for (uint32_t m = 0; m < kM; ++m) {
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) at[m][h] = position + (warp_query + m * 16 + h * 8 + g) / group;
  }

  const int32_t* const table =
      rows.block_tables + static_cast<size_t>(rows.tables[tile.row]) * rows.table_stride;
  const PromptCopies<T, Dims> copies{kv, table, shared, kv_head, end, warp, lane};
  if (dim < Dims) {  // the columns beyond, which nothing is copied into
    for (uint32_t i = thread; i < 2 * Tile::kBytes / 16; i += kThreads)
      reinterpret_cast<uint4*>(shared + Tile::keys)[i] = make_uint4(0, 0, 0, 0);
  }
  wait_for_inputs();
  __syncthreads();
  copies.fetch(kv.keys, step, Tile::keys, Tile::key_codes);
  if constexpr (Tile::kScaled) copies.fetch(kv.values, step, Tile::values, Tile::value_codes);

  // A lane writes what only it will read.
  uint4* const query = reinterpret_cast<uint4*>(shared + Tile::queries) + warp * kM * (Dims / 16) * 32 + lane;
  if (!idle) {
    const float scale = shape.scale * kLog2e;
#pragma unroll
    for (uint32_t m = 0; m < kM; ++m) {
      const auto from = [&](uint32_t h) {
        const uint32_t of = min(warp_query + m * 16 + h * 8 + g, queries - 1);
        return q + (static_cast<size_t>(tile.row + of / group) * shape.heads + kv_head * group + of % group) *
                       dim;
      };
      const float *const upper = from(0), *const lower = from(1);
      const auto pair = [&](const float* of, uint32_t column) {
        if (column >= dim) return 0u;
        const float2 two = *reinterpret_cast<const float2*>(of + column);
        return round_pair(two.x * scale, two.y * scale, static_cast<const Factor<T>*>(nullptr));
      };
#pragma unroll
      for (uint32_t k = 0; k < Dims / 16; ++k) {
        const uint32_t column = k * 16 + 2 * quad;
        query[(m * (Dims / 16) + k) * 32] = make_uint4(pair(upper, column), pair(lower, column),
                                                       pair(upper, column + 8), pair(lower, column + 8));
      }
    }
  }

  PromptSums<T, Dims> sums;
#pragma unroll 1
  for (; step < steps_end; ++step) {
    copy_async_wait<0>();
    __syncthreads();  // the keys have come, and the values before are done with
    if constexpr (Tile::kScaled) {
      copies.widen_both(step);
      __syncthreads();
      if (step + 1 < steps_end) {
        copies.fetch(kv.keys, step + 1, Tile::keys, Tile::key_codes);
        copies.fetch(kv.values, step + 1, Tile::values, Tile::value_codes);
      }
    } else {
      copies.fetch(kv.values, step, Tile::values, 0);
    }
    const uint32_t first = step * kPositions;
    const bool sees = !idle && first <= highest && first + kPositions > oldest(lowest);
    if (sees) {
      sums.multiply_keys(query, shared, lane);
      if (first + kPositions - 1 > lowest || first < oldest(highest)) {
#pragma unroll
        for (uint32_t m = 0; m < kM; ++m) {
#pragma unroll
          for (uint32_t n = 0; n < kPositions / 8; ++n) {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
              const uint32_t p = first + n * 8 + 2 * quad + i % 2, sees_to = at[m][i / 2];
              if (p > sees_to || p < oldest(sees_to)) sums.score[m][n][i] = -INFINITY;
            }
          }
        }
      }
      sums.weigh(shared, lane);
    }
    if constexpr (!Tile::kScaled) {
      copy_async_wait<0>();
      __syncthreads();  // the values have come, and the keys are done with
      if (step + 1 < steps_end) copies.fetch(kv.keys, step + 1, Tile::keys, 0);
    }
    if (sees) sums.add_values(shared, lane);

    const bool last = step + 1 == steps_end;
    if (!last && (step + 1) % split_tiles != 0) continue;
    // A split ends.
    const uint32_t of_row = tile.divided ? last_split - first_split + 1 : 1;
#pragma unroll
    for (uint32_t m = 0; m < kM; ++m) {
#pragma unroll
      for (uint32_t h = 0; h < 2; ++h) {
        Weighing of = sums.weighing[m][h];
        of.total = __fadd_rn(of.total, __shfl_xor_sync(~0u, of.total, 1));
        of.total = __fadd_rn(of.total, __shfl_xor_sync(~0u, of.total, 2));
        sums.weighing[m][h] = {kNoReference, 0};
        const uint32_t index = warp_query + m * 16 + h * 8 + g;
        const bool mine = index < queries;
        __nv_bfloat16* const to = output_of(mine ? index : 0);
        float* const part = partials + ((static_cast<size_t>(tile.slot) + index / group * of_row +
                                         (tile.divided ? split - first_split : 0)) *
                                            shape.heads +
                                        kv_head * group + index % group) *
                                           (dim + 2);
        const auto each = [&](auto call) {
#pragma unroll
          for (uint32_t c = 0; c < Tile::kColumns; ++c) {
            float* const two = &sums.sum[m][c][2 * h];
            const uint32_t column = c * 8 + 2 * quad;
            if (mine && column < dim) call(column, make_float2(two[0], two[1]));
            two[0] = two[1] = 0;
          }
        };
        if (first_split == last_split) {
          each([&](uint32_t column, float2 two) { store_attended(to + column, two, of.total); });
          continue;
        }
        const auto store = [&](uint32_t column, float2 two) {
          __stcg(reinterpret_cast<float2*>(part + column), two);
        };
        if (tile.divided || split == first_split) {
          each(store);
        } else if (mine) {
          const float2 before = __ldcg(reinterpret_cast<const float2*>(part + dim));
          const Join join({before.x, before.y}, of);
          of = join.of;
          each([&](uint32_t column, float2 two) {
            two = join.sum(__ldcg(reinterpret_cast<const float2*>(part + column)), two);
            last ? store_attended(to + column, two, of.total) : store(column, two);
          });
        }
        __syncwarp();  // the quad has read what its first lane writes
        if (mine && quad == 0)
          __stcg(reinterpret_cast<float2*>(part + dim), make_float2(of.reference, of.total));
      }
    }
    ++split;
  }
  if (!tile.divided || first_split == last_split) return;

  // The last block of a tile joins its splits.
  const uint32_t splits = last_split - first_split;
  uint32_t& joins = *reinterpret_cast<uint32_t*>(shared);
  __syncthreads();
  if (thread == 0) joins = arrive(arrivals + blockIdx.y * kv.kv_heads + kv_head, splits) == splits;
  __syncthreads();
  if (!joins) return;
  const uint32_t pairs = dim / 2;
  for (uint32_t i = thread; i < queries * pairs; i += kThreads) {
    const uint32_t index = i / pairs, column = i % pairs * 2, row = position + index / group;
    const auto part = [&](uint32_t of) {
      return partials + ((static_cast<size_t>(tile.slot) + index / group * (splits + 1) + of - first_split) *
                             shape.heads +
                         kv_head * group + index % group) *
                            (dim + 2);
    };
    const auto read = [&](uint32_t of, uint32_t d) {
      return __ldcg(reinterpret_cast<const float2*>(part(of) + d));
    };
    uint32_t of = oldest(row) / shape.split_positions;
    float2 total = read(of, dim), two = read(of, column);
    for (++of; of <= row / shape.split_positions; ++of) {
      const float2 next = read(of, dim);
      const Join join({total.x, total.y}, {next.x, next.y});
      two = join.sum(two, read(of, column)), total = make_float2(join.of.reference, join.of.total);
    }
    store_attended(output_of(index) + column, two, total.y);
  }
}

template <class T, uint32_t Dims>
cudaError_t attend_as(const StepRows& rows, const AttentionTiles& tiles, const AttentionShape& shape,
                      const float* q, const KvPages& kv, float* partials, uint32_t* arrivals,
                      __nv_bfloat16* out, uint32_t stride, bool dependent, cudaStream_t stream) {
  return launch(attend_kernel<T, Dims>, dim3(kv.kv_heads, tiles.count, tiles.splits), kThreads,
                PromptTile<T, Dims>::bytes, dependent, stream, rows, tiles.tiles, shape, q, kv, partials,
                arrivals, out, stride);
}

}  // namespace

cudaError_t attend(const StepRows& rows, const AttentionTiles& tiles, const AttentionShape& shape,
                   const float* q, const KvPages& kv, float* partials, uint32_t* arrivals, void* out,
                   uint32_t stride, bool dependent, cudaStream_t stream) {
  if (shape.split_positions % kTilePositions != 0 || kv.head_dim % 8 != 0 || kv.head_dim > 256 ||
      shape.heads / kv.kv_heads > kTileQueries)
    return cudaErrorInvalidValue;
  return with_element(kv.element, [&](auto type) {
    using T = Pointee<decltype(type)>;
    const auto as = [&](auto run) {
      return run(rows, tiles, shape, q, kv, partials, arrivals, static_cast<__nv_bfloat16*>(out), stride,
                 dependent, stream);
    };
    return kv.head_dim <= 64    ? as(attend_as<T, 64>)
           : kv.head_dim <= 128 ? as(attend_as<T, 128>)
                                : as(attend_as<T, 256>);
  });
}

}  // namespace filigree::cuda
