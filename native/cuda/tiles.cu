#include "cuda/linear.h"
#include "cuda/rounding.cuh"
#include "cuda/store.cuh"
#include "cuda/tile_products.cuh"

// Products of up to 32 tokens with a matrix in tiles (mma_tiles.h), on the tensor cores.
//
// The grid is persistent. A block holds the activations of one slice of K in shared memory; each of its warps walks row tiles on
// its own, with one part of the slice, its weights coming through a ring of bulk copies. The parts' sums meet in shared memory when
// all are done, and the slices' in a second kernel, both in the order of the columns.

namespace filigree::cuda {
namespace {

FILIGREE_DEVICE float4 scales_of(const TileMatrix& m, uint32_t row) {
  if (!m.row_scales || row >= m.rows) return make_float4(1, 1, 1, 1);
  if (row + 4 <= m.rows) return *reinterpret_cast<const float4*>(m.row_scales + row);
  const auto one = [&](uint32_t r) { return r < m.rows ? m.row_scales[r] : 1.0f; };
  return make_float4(one(row), one(row + 1), one(row + 2), one(row + 3));
}

struct Arguments {
  TileMatrix m;
  Input x;
  Output out;
  float* partials;
  uint32_t slice_blocks, slices, blocks_per_slice, parts;
};

// The activations of a slice, a row of tokens every row_bytes at `to`, and for i8 their scales, [block][token], at `scales`.
template <Values Kind, class Tile, int TokenTiles, uint32_t Warps>
FILIGREE_DEVICE void stage_inputs(const Input& x, uint32_t first_column, uint32_t wide, uint32_t to,
                                  uint32_t row_bytes, uint32_t scales) {
  constexpr uint32_t kTokens = TokenTiles * 8, kCols = Tile::kCols, kElement = Kind == Values::bf16 ? 2 : 1;
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  if (Kind == Values::i8 && !x.scales) {
    constexpr uint32_t kPieces = kCols / 256, kAtOnce = 8 / kPieces;
    const uint32_t edge = x.stride / 8;
    const uint4* const from = static_cast<const uint4*>(x.data) + first_column * (kCols / 8) + lane;
    for (uint32_t begin = warp; begin < kTokens * wide; begin += Warps * kAtOnce) {
      uint4 held[kAtOnce][kPieces];
#pragma unroll
      for (uint32_t u = 0; u < kAtOnce; ++u) {
        const uint32_t i = begin + u * Warps, token = i % kTokens, block = i / kTokens;
        const bool inside = block < wide && token < x.tokens;
        const uint4* const mine = from + static_cast<size_t>(token) * edge + block * (kCols / 8);
#pragma unroll
        for (uint32_t p = 0; p < kPieces; ++p)
          held[u][p] = inside ? __ldcg(mine + p * 32) : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (uint32_t u = 0; u < kAtOnce; ++u) {
        const uint32_t i = begin + u * Warps, token = i % kTokens, block = i / kTokens;
        if (block >= wide) break;
        const RoundedBlock<kPieces> rounded = round_block(held[u]);
        const uint32_t at = shared_address(shared) + to + token * row_bytes + block * kCols + lane * 8;
#pragma unroll
        for (uint32_t p = 0; p < kPieces; ++p)
          store_shared_u64(at + p * 256, rounded.codes[p].x, rounded.codes[p].y);
        if (lane == 0) *reinterpret_cast<float*>(shared + scales + i * 4) = rounded.scale;
      }
    }
    return;
  }
  if (Kind == Values::i8) {
    for (uint32_t i = threadIdx.x; i < kTokens * wide; i += Warps * 32) {
      const uint32_t token = i % kTokens, block = first_column + i / kTokens;
      const uint32_t at = x.scale_columns ? token * (x.stride / x.scale_columns) + block : token;
      *reinterpret_cast<float*>(shared + scales + i * 4) = token < x.tokens ? x.scales[at] : 0.0f;
    }
  }
  const uint32_t pieces = wide * kCols * kElement / 16, edge = x.stride * kElement / 16;
  const uint32_t first = first_column * kCols * kElement / 16;
  const uint4* const from = static_cast<const uint4*>(x.data);
  for (uint32_t row = warp; row < kTokens; row += Warps) {
    const uint32_t at = shared_address(shared) + to + row * row_bytes;
    for (uint32_t i = lane; i < pieces; i += 32) {
      const bool inside = row < x.tokens && first + i < edge;
      copy_async16_or_zero(at + i * 16, inside ? from + static_cast<size_t>(row) * edge + first + i : from,
                           inside);
    }
  }
  copy_async_commit();
  copy_async_wait<0>();
}

template <Values Kind, class Tile, int TokenTiles, uint32_t Warps, int Stages>
__global__ void __launch_bounds__(Warps * 32, 1) tiles_kernel(const Arguments a) {
  __shared__ __align__(8) uint64_t barriers[Warps * Stages];
  constexpr uint32_t kElement = Kind == Values::bf16 ? 2 : 1, kBlockRow = Tile::kCols * kElement;
  constexpr bool kWindows = Tile::kWarpShared > 0;
  using Sum = typename std::conditional<Kind == Values::bf16, float, int>::type;
  const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const uint32_t warp = threadIdx.x >> 5;
  let_next_start();

  const uint32_t columns = a.m.block_columns(), row_tiles = a.m.row_tiles();
  const uint32_t slice = blockIdx.x / a.blocks_per_slice, within = blockIdx.x % a.blocks_per_slice;
  const uint32_t first_column = slice * a.slice_blocks, wide = min(a.slice_blocks, columns - first_column);
  // The block's tiles: within, within + blocks_per_slice, ... Of those, and of the slice's columns, a warp's share.
  const uint32_t tiles = within < row_tiles ? (row_tiles - within - 1) / a.blocks_per_slice + 1 : 0;
  const uint32_t part = warp % a.parts, group = warp / a.parts, groups = Warps / a.parts;
  const uint32_t part_blocks = (a.slice_blocks + a.parts - 1) / a.parts;
  const uint32_t part_first = min(part * part_blocks, wide), part_wide = min(part_blocks, wide - part_first);
  const int steps = group < tiles ? static_cast<int>(((tiles - group - 1) / groups + 1) * part_wide) : 0;

  const uint32_t stage_bytes = a.m.most_bytes;
  const uint32_t windows = warp * Tile::kWarpShared;
  const uint32_t stages = Warps * Tile::kWarpShared + warp * Stages * stage_bytes;
  const uint32_t x0 = Warps * (Tile::kWarpShared + Stages * stage_bytes);
  const uint32_t row_bytes = a.slice_blocks * kBlockRow + Tile::kRowPad;
  const uint32_t scales = x0 + TokenTiles * 8 * row_bytes;
  const uint32_t joins = scales + (Kind == Values::i8 ? TokenTiles * 8 * a.slice_blocks * 4 : 0);
  WarpRing<Stages> ring;
  ring.start(shared_address(barriers) + warp * Stages * 8, shared_address(shared) + stages, stage_bytes,
             lane);

  const auto block_at = [&](uint32_t i) {
    const uint32_t tile = within + (group + i / part_wide * groups) * a.blocks_per_slice;
    return static_cast<size_t>(tile) * columns + first_column + part_first + i % part_wide;
  };
  // Offsets of the next 32 blocks, one a lane.
  uint32_t offset = 0, length = 0;
  int known = 0;
  const auto look_up = [&](int from) {
    const int i = from + lane;
    if (i < steps) {
      const size_t block = block_at(static_cast<uint32_t>(i));
      offset = a.m.offsets[block];
      length = a.m.offsets[block + 1] - offset;
    }
  };
  if constexpr (Tile::kBytes == 0) look_up(0);
  const auto fill = [&](int i) {
    if (i >= steps) {
      ring.skip();
    } else if constexpr (Tile::kBytes == 0) {
      if (i - known >= 32) look_up(known += 32);
      const uint32_t from = __shfl_sync(~0u, offset, i - known),
                     bytes = __shfl_sync(~0u, length, i - known) * 16;
      ring.fill(i, a.m.data + static_cast<size_t>(from) * 16, bytes);
    } else {
      ring.fill(i, a.m.data + block_at(static_cast<uint32_t>(i)) * Tile::kBytes, Tile::kBytes);
    }
  };
#pragma unroll
  for (int s = 0; s < Stages; ++s) fill(s);

  Sum sum[TokenTiles][4] = {};
  float total[TokenTiles][4] = {};  // i8: of the blocks so far, with their scales
  Tile tile;
  tile.start(windows, lane);
  const uint32_t my_x = x0 + Tile::x_offset(row_bytes, lane);
  uint32_t local = group, column = 0;
  wait_for_inputs();
  stage_inputs<Kind, Tile, TokenTiles, Warps>(a.x, first_column, wide, x0, row_bytes, scales);
  __syncthreads();

  for (int i = 0; i < steps; ++i) {
    ring.wait(i);
    const uint32_t stage = stages + (i % Stages) * stage_bytes;
    tile.take(stage, lane);
    // A bitmask block is in registers and windows now, and its stage can be filled while it is multiplied.
    if constexpr (kWindows) fill(i + Stages);
    tile.template multiply<TokenTiles>(stage, my_x + (part_first + column) * kBlockRow, row_bytes, lane, sum);
    if constexpr (!kWindows) {
      __syncwarp();
      fill(i + Stages);
    }
    if constexpr (Kind == Values::i8) {
#pragma unroll
      for (int n = 0; n < TokenTiles; ++n) {
        const float2 scale = *reinterpret_cast<const float2*>(
            shared + scales + ((part_first + column) * TokenTiles * 8 + n * 8 + t * 2) * 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          total[n][j] = fmaf(j & 1 ? scale.y : scale.x, static_cast<float>(sum[n][j]), total[n][j]);
          sum[n][j] = 0;
        }
      }
    }
    if (++column < part_wide) continue;
    column = 0;
    const uint32_t row_tile = within + local * a.blocks_per_slice;
#pragma unroll
    for (int n = 0; n < TokenTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t token = n * 8 + t * 2 + (j & 1), r = g + 8 * (j >> 1);
        const float value = Kind == Values::i8 ? total[n][j] : static_cast<float>(sum[n][j]);
        if (token < a.x.tokens) {
          if (a.parts > 1) {
            *reinterpret_cast<float*>(
                shared + joins + ((local * a.parts + part) * a.x.tokens + token) * kJoinRow + r * 4) = value;
          } else {
            __stcg(a.partials +
                       ((static_cast<size_t>(row_tile) * a.slices + slice) * a.x.tokens + token) * 16 + r,
                   value);
          }
        }
        sum[n][j] = 0, total[n][j] = 0;
      }
    }
    local += groups;
  }
  if (a.parts == 1) return;
  __syncthreads();
  const uint32_t used = (wide + part_blocks - 1) / part_blocks;
  for (uint32_t i = threadIdx.x; i < tiles * a.x.tokens * 4; i += Warps * 32) {
    const uint32_t r = i % 4 * 4, token = i / 4 % a.x.tokens, of = i / 4 / a.x.tokens;
    const uint8_t* from = shared + joins + (of * a.parts * a.x.tokens + token) * kJoinRow + r * 4;
    float4 s = *reinterpret_cast<const float4*>(from);
    for (uint32_t p = 1; p < used; ++p)
      s = plus(s, *reinterpret_cast<const float4*>(from + p * a.x.tokens * kJoinRow));
    const uint32_t row_tile = within + of * a.blocks_per_slice;
    if (a.slices > 1 || a.out.store == Store::swiglu) {
      __stcg(reinterpret_cast<float4*>(
                 a.partials + ((static_cast<size_t>(row_tile) * a.slices + slice) * a.x.tokens + token) * 16 +
                 r),
             s);
    } else if (row_tile * 16 + r < a.m.rows) {
      store_rows(a.out, a.m.rows, row_tile * 16 + r, token, times(s, scales_of(a.m, row_tile * 16 + r)));
    }
  }
}

FILIGREE_HD constexpr uint32_t join_threads(uint32_t rows) { return rows == 4 ? 128 : 256; }

// Adds the slices' sums in their order. A thread has Rows rows of one token, or those of a SwiGLU pair.
template <uint32_t Rows>
__global__ void __launch_bounds__(join_threads(Rows)) join_kernel(const Arguments a) {
  constexpr uint32_t kAtOnce = 8;
  let_next_start();
  const uint32_t per_tile = a.x.tokens * (16 / Rows);
  const bool pairs = a.out.store == Store::swiglu;
  const uint32_t i = blockIdx.x * join_threads(Rows) + threadIdx.x;
  const uint32_t unit = i / per_tile, in = i % per_tile, token = in / (16 / Rows),
                 r = in % (16 / Rows) * Rows;
  const uint32_t tile = pairs ? 2 * unit : unit, row = tile * 16 + r;
  using Sums = typename std::conditional<Rows == 4, float4, float>::type;
  const auto scale_of = [&](uint32_t of) {
    if constexpr (Rows == 4) {
      return scales_of(a.m, of);
    } else {
      return a.m.row_scales && of < a.m.rows ? a.m.row_scales[of] : 1.0f;
    }
  };
  const Sums scale = scale_of(row), up_scale = scale_of(pairs ? row + 16 : a.m.rows);
  wait_for_inputs();
  if (row >= a.m.rows) return;
  const auto total = [&](uint32_t of, const Sums& by) {
    const Sums* from =
        reinterpret_cast<const Sums*>(a.partials) + static_cast<size_t>(of) * a.slices * per_tile + in;
    Sums s = {};
    for (uint32_t first = 0; first < a.slices; first += kAtOnce) {
      Sums each[kAtOnce];
#pragma unroll
      for (uint32_t k = 0; k < kAtOnce; ++k) {
        each[k] = first + k < a.slices ? __ldcg(from + static_cast<size_t>(first + k) * per_tile) : Sums{};
      }
#pragma unroll
      for (uint32_t k = 0; k < kAtOnce; ++k) s = plus(s, each[k]);
    }
    return times(s, by);
  };
  const Sums first = total(tile, scale);
  if constexpr (Rows == 4) {
    if (pairs) {
      store_swiglu_rows(a.out, row, token, first, total(tile + 1, up_scale));
    } else {
      store_rows(a.out, a.m.rows, row, token, first);
    }
  } else if (pairs) {
    store_swiglu(a.out, row, token, first, total(tile + 1, up_scale));
  } else {
    store_row(a.out, row, token, first);
  }
}

template <Values Kind, class Tile, uint32_t Warps, int Stages>
cudaError_t by_tokens(const Arguments& a, const TilePlan& plan, bool dependent, cudaStream_t stream) {
  const auto run = [&](void (*kernel)(Arguments)) {
    return launch(kernel, dim3(plan.blocks_per_slice * plan.slices), Warps * 32, plan.shared_bytes, dependent,
                  stream, a);
  };
  if (plan.token_tiles == 1) return run(tiles_kernel<Kind, Tile, 1, Warps, Stages>);
  if (plan.token_tiles == 2) return run(tiles_kernel<Kind, Tile, 2, Warps, Stages>);
  if (plan.token_tiles == 4) return run(tiles_kernel<Kind, Tile, 4, Warps, Stages>);
  return cudaErrorInvalidConfiguration;
}

cudaError_t pick(const Arguments& a, const TilePlan& p, bool dependent, cudaStream_t stream) {
  const TileMatrix& m = a.m;
  const bool bf16 = m.kind == Values::bf16;
#define FILIGREE_TILES(KIND, TILE, WARPS, STAGES) \
  if (p.warps == WARPS && p.stages == STAGES)     \
  return by_tokens<KIND, TILE, WARPS, STAGES>(a, p, dependent, stream)
#define FILIGREE_BITMASK(KIND, LEAD, MOST, WARPS, STAGES)                         \
  if (m.lead == LEAD && m.most == MOST && p.warps == WARPS && p.stages == STAGES) \
  return by_tokens<KIND, BitmaskTile<KIND, LEAD, MOST>, WARPS, STAGES>(a, p, dependent, stream)
  if (m.tiles == Tiles::bitmask && bf16) {
    FILIGREE_BITMASK(Values::bf16, 7, 17, 16, 1);
    FILIGREE_BITMASK(Values::bf16, 7, 17, 12, 1);
    FILIGREE_BITMASK(Values::bf16, 13, 24, 12, 1);
    FILIGREE_BITMASK(Values::bf16, 13, 24, 8, 2);
    FILIGREE_BITMASK(Values::bf16, 24, 32, 8, 1);
  } else if (m.tiles == Tiles::bitmask) {
    FILIGREE_BITMASK(Values::i8, 4, 9, 16, 1);
    FILIGREE_BITMASK(Values::i8, 4, 9, 12, 1);
    FILIGREE_BITMASK(Values::i8, 7, 12, 12, 1);
    FILIGREE_BITMASK(Values::i8, 12, 16, 8, 1);
  } else if (m.tiles == Tiles::two_four && bf16) {
    FILIGREE_TILES(Values::bf16, TwoFourTile<Values::bf16>, 16, 2);
    FILIGREE_TILES(Values::bf16, TwoFourTile<Values::bf16>, 12, 2);
    FILIGREE_TILES(Values::bf16, TwoFourTile<Values::bf16>, 8, 2);
  } else if (m.tiles == Tiles::two_four) {
    FILIGREE_TILES(Values::i8, TwoFourTile<Values::i8>, 16, 2);
    FILIGREE_TILES(Values::i8, TwoFourTile<Values::i8>, 12, 2);
    FILIGREE_TILES(Values::i8, TwoFourTile<Values::i8>, 8, 2);
  } else if (bf16) {
    FILIGREE_TILES(Values::bf16, DenseTile<Values::bf16>, 8, 2);
  } else {
    FILIGREE_TILES(Values::i8, DenseTile<Values::i8>, 8, 2);
  }
#undef FILIGREE_BITMASK
#undef FILIGREE_TILES
  return cudaErrorInvalidConfiguration;
}

}  // namespace

cudaError_t run_tiles(const TileMatrix& m, const Input& x, const Output& out, const TilePlan& plan,
                      float* partials, bool dependent, cudaStream_t stream) {
  if (x.tokens == 0 || x.tokens > plan.token_tiles * 8) return cudaErrorInvalidValue;
  const Arguments a = {m,         x, out, partials, plan.slice_blocks, plan.slices, plan.blocks_per_slice,
                       plan.parts};
  const cudaError_t error = pick(a, plan, dependent, stream);
  const bool pairs = out.store == Store::swiglu;
  if (error != cudaSuccess || (plan.slices == 1 && plan.parts > 1 && !pairs)) return error;
  const uint32_t units = pairs ? ceil_div(m.row_tiles(), 2u) : m.row_tiles();
  // Where blocks of the join start before the product has left most multiprocessors, they crowd on the few that it does not use
  // (more than kFewSlices leave some): many small ones share these better. Otherwise few with wide loads are as good or better.
  const auto join = [&](void (*kernel)(Arguments), uint32_t rows) {
    const uint32_t threads = join_threads(rows);
    return launch(kernel, dim3(ceil_div(units * x.tokens * (16 / rows), threads)), threads, 0, dependent,
                  stream, a);
  };
  return plan.slices > kFewSlices ? join(join_kernel<1>, 1) : join(join_kernel<4>, 4);
}

}  // namespace filigree::cuda
