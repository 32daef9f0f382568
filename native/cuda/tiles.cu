#include "cuda/linear.h"
#include "cuda/store.cuh"
#include "cuda/tile_products.cuh"

// Products of up to 32 tokens with a matrix in tiles (mma_tiles.h), on the tensor cores.
//
// The grid is persistent. A block holds the activations of one slice of K in shared memory; each of its warps walks row tiles on
// its own, its weights coming through a ring of bulk copies.

namespace filigree::cuda {
namespace {

struct Arguments {
  TileMatrix m;
  Input x;
  Output out;
  float* partials;
  uint32_t slice_blocks, slices, blocks_per_slice;
};

// 512 columns of a row of bf16 as i8 in shared memory at `to`, by a warp: columns 8 lane .. and 256 + 8 lane .. in `low` and `high`.
// Returns the scale, which NaN or an infinity among them makes NaN or infinite.
FILIGREE_DEVICE float round_block(const uint4& low, const uint4& high, uint32_t to, int lane) {
  uint32_t most = 0;
  const uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) most = __vmaxu2(most, words[i] & 0x7fff7fffu);
  most = __reduce_max_sync(~0u, max(most >> 16, most & 0xffffu));
  const float largest = __uint_as_float(most << 16), inverse = most ? 127.0f / largest : 0.0f;
  uint32_t codes[4] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int even = __float2int_rn(__uint_as_float(words[i] << 16) * inverse),
              odd = __float2int_rn(__uint_as_float(words[i] & 0xffff0000u) * inverse);
    codes[i / 2] |= (static_cast<uint32_t>(even & 255) | static_cast<uint32_t>(odd & 255) << 8)
                    << (16 * (i % 2));
  }
  store_shared_u64(to + lane * 8, codes[0], codes[1]);
  store_shared_u64(to + 256 + lane * 8, codes[2], codes[3]);
  return largest / 127.0f;
}

template <Values Kind, class Tile, int TokenTiles, int Warps, int Stages>
__global__ void __launch_bounds__(Warps * 32, 1) tiles_kernel(const Arguments a) {
  __shared__ __align__(8) uint64_t barriers[Warps * Stages];
  constexpr uint32_t kBlockCols = Kind == Values::bf16 ? 256 : 512, kElement = Kind == Values::bf16 ? 2 : 1;
  using Sum = typename std::conditional<Kind == Values::bf16, float, int>::type;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  let_next_start();

  const uint32_t columns = a.m.block_columns();
  const uint32_t slice = blockIdx.x / a.blocks_per_slice, within = blockIdx.x % a.blocks_per_slice;
  const uint32_t first_column = slice * a.slice_blocks, wide = min(a.slice_blocks, columns - first_column);
  const uint32_t tiles = a.m.row_tiles(), tile_step = a.blocks_per_slice * Warps;
  const uint32_t first_tile = within + warp * a.blocks_per_slice;
  const int mine =
      first_tile < tiles ? static_cast<int>((tiles - first_tile + tile_step - 1) / tile_step) : 0;
  const int steps = mine * static_cast<int>(wide);

  const uint32_t stage_bytes = a.m.most_bytes;
  const uint32_t windows = warp * Tile::kWarpShared;
  const uint32_t stages = Warps * Tile::kWarpShared + warp * Stages * stage_bytes;
  const uint32_t x0 = Warps * (Tile::kWarpShared + Stages * stage_bytes);
  WarpRing<Stages> ring;
  ring.start(shared_address(barriers) + warp * Stages * 8, shared_address(shared) + stages, stage_bytes,
             lane);

  // Offsets of the next 32 blocks, one a lane.
  uint32_t offset = 0, length = 0;
  int known = 0;
  const auto look_up = [&](int from) {
    const int i = from + lane;
    if (i < steps) {
      const size_t block =
          static_cast<size_t>(first_tile + static_cast<uint32_t>(i) / wide * tile_step) * columns +
          first_column + static_cast<uint32_t>(i) % wide;
      offset = a.m.offsets[block];
      length = a.m.offsets[block + 1] - offset;
    }
  };
  look_up(0);
  const auto fill = [&](int i) {
    if (i - known >= 32) look_up(known += 32);
    const uint32_t from = __shfl_sync(~0u, offset, i - known),
                   bytes = __shfl_sync(~0u, length, i - known) * 16;
    ring.fill(i, a.m.data + static_cast<size_t>(from) * 16, bytes);
  };
#pragma unroll
  for (int s = 0; s < Stages; ++s) {
    if (s < steps) {
      fill(s);
    } else {
      ring.skip();
    }
  }

  wait_for_inputs();
  const uint32_t row_bytes = a.slice_blocks * kBlockCols * kElement + Tile::kRowPad;
  // i8: of every token and block, [block][token].
  const uint32_t scales = x0 + TokenTiles * 8 * row_bytes;
  if (Kind == Values::i8 && !a.x.scales) {
    constexpr uint32_t kTokens = TokenTiles * 8, kAtOnce = 4;
    const uint32_t edge = a.x.stride / 8;
    const uint4* const x = static_cast<const uint4*>(a.x.data) + first_column * (kBlockCols / 8) + lane;
    for (uint32_t from = warp; from < kTokens * wide; from += Warps * kAtOnce) {
      uint4 low[kAtOnce], high[kAtOnce];
#pragma unroll
      for (uint32_t u = 0; u < kAtOnce; ++u) {
        const uint32_t i = from + u * Warps, token = i % kTokens, block = i / kTokens;
        low[u] = high[u] = make_uint4(0, 0, 0, 0);
        if (block < wide && token < a.x.tokens) {
          const uint4* const mine = x + static_cast<size_t>(token) * edge + block * (kBlockCols / 8);
          low[u] = __ldcg(mine), high[u] = __ldcg(mine + 32);
        }
      }
#pragma unroll
      for (uint32_t u = 0; u < kAtOnce; ++u) {
        const uint32_t i = from + u * Warps, token = i % kTokens, block = i / kTokens;
        if (block >= wide) break;
        const float scale = round_block(
            low[u], high[u], shared_address(shared) + x0 + token * row_bytes + block * kBlockCols, lane);
        if (lane == 0) *reinterpret_cast<float*>(shared + scales + i * 4) = scale;
      }
    }
  } else {
    if (Kind == Values::i8) {
      for (uint32_t i = threadIdx.x; i < TokenTiles * 8 * wide; i += Warps * 32) {
        const uint32_t token = i % (TokenTiles * 8);
        *reinterpret_cast<float*>(shared + scales + i * 4) = token < a.x.tokens ? a.x.scales[token] : 0.0f;
      }
    }
    const uint32_t pieces = wide * kBlockCols * kElement / 16, edge = a.x.stride * kElement / 16;
    const uint32_t first = first_column * kBlockCols * kElement / 16;
    const uint4* const x = static_cast<const uint4*>(a.x.data);
    for (uint32_t row = warp; row < TokenTiles * 8; row += Warps) {
      const uint32_t to = shared_address(shared) + x0 + row * row_bytes;
      for (uint32_t i = lane; i < pieces; i += 32) {
        const bool inside = row < a.x.tokens && first + i < edge;
        copy_async16_or_zero(to + i * 16, inside ? x + static_cast<size_t>(row) * edge + first + i : x,
                             inside);
      }
    }
    copy_async_commit();
    copy_async_wait<0>();
  }
  __syncthreads();

  Sum sum[TokenTiles][4] = {};
  float total[TokenTiles][4] = {};  // i8: of the blocks so far, with their scales
  Tile tile;
  tile.start(windows, lane);
  uint32_t row_tile = first_tile, column = 0;
  const uint32_t my_x = x0 + Tile::x_offset(row_bytes, lane);
  for (int i = 0; i < steps; ++i) {
    ring.wait(i);
    const uint32_t stage = stages + (i % Stages) * stage_bytes;
    tile.take(stage, lane);
    // A bitmask block is in registers and windows now, and its stage can be filled while it is multiplied.
    if constexpr (Tile::kWarpShared > 0) {
      if (i + Stages < steps) {
        fill(i + Stages);
      } else {
        ring.skip();
      }
    }
    tile.template multiply<TokenTiles>(stage, my_x + column * kBlockCols * kElement, row_bytes, lane, sum);
    if constexpr (Tile::kWarpShared == 0) {
      __syncwarp();
      if (i + Stages < steps) {
        fill(i + Stages);
      } else {
        ring.skip();
      }
    }
    if constexpr (Kind == Values::i8) {
#pragma unroll
      for (int n = 0; n < TokenTiles; ++n) {
        const float2 scale =
            *reinterpret_cast<const float2*>(shared + scales + (column * TokenTiles * 8 + n * 8 + t * 2) * 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          total[n][j] = fmaf(j & 1 ? scale.y : scale.x, static_cast<float>(sum[n][j]), total[n][j]);
          sum[n][j] = 0;
        }
      }
    }
    if (++column < wide) continue;
    column = 0;
#pragma unroll
    for (int n = 0; n < TokenTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t token = n * 8 + t * 2 + (j & 1), r = g + 8 * (j >> 1);
        if (token < a.x.tokens) {
          __stcg(
              a.partials + ((static_cast<size_t>(row_tile) * a.slices + slice) * a.x.tokens + token) * 16 + r,
              Kind == Values::i8 ? total[n][j] : static_cast<float>(sum[n][j]));
        }
        sum[n][j] = 0, total[n][j] = 0;
      }
    }
    row_tile += tile_step;
  }
}

// Adds the slices' sums in their order. A thread has one row of one token, or the gate and up rows of a SwiGLU pair.
__global__ void __launch_bounds__(256) join_kernel(const Arguments a) {
  let_next_start();
  const uint32_t per_tile = a.x.tokens * 16;
  const bool pairs = a.out.store == Store::swiglu;
  const uint32_t i = blockIdx.x * 256 + threadIdx.x;
  const uint32_t unit = i / per_tile, in = i % per_tile, token = in / 16, r = in % 16;
  const uint32_t tile = pairs ? 2 * unit : unit, row = tile * 16 + r;
  const bool live = tile < a.m.row_tiles() && row < a.m.rows;
  float scale = live && a.m.row_scales ? a.m.row_scales[row] : 1.0f;
  float up_scale = live && pairs && a.m.row_scales ? a.m.row_scales[row + 16] : 1.0f;
  wait_for_inputs();
  if (!live) return;
  const auto total = [&](uint32_t of) {
    const float* from = a.partials + static_cast<size_t>(of) * a.slices * per_tile + in;
    float s = 0;
#pragma unroll 8
    for (uint32_t k = 0; k < a.slices; ++k) s += __ldcg(from + static_cast<size_t>(k) * per_tile);
    return s;
  };
  if (pairs) {
    store_swiglu(a.out, row, token, total(tile) * scale, total(tile + 1) * up_scale);
  } else {
    store_row(a.out, row, token, total(tile) * scale);
  }
}

template <Values Kind, class Tile, int TokenTiles, int Warps, int Stages>
cudaError_t run(const Arguments& a, const TilePlan& plan, bool dependent, cudaStream_t stream) {
  return launch(tiles_kernel<Kind, Tile, TokenTiles, Warps, Stages>,
                dim3(plan.blocks_per_slice * plan.slices), Warps * 32, plan.shared_bytes, dependent, stream,
                a);
}

template <Values Kind, class Tile, int Warps, int Stages>
cudaError_t by_tokens(const Arguments& a, const TilePlan& plan, bool dependent, cudaStream_t stream) {
  if (plan.token_tiles == 1) return run<Kind, Tile, 1, Warps, Stages>(a, plan, dependent, stream);
  if (plan.token_tiles == 2) return run<Kind, Tile, 2, Warps, Stages>(a, plan, dependent, stream);
  if (plan.token_tiles == 4) return run<Kind, Tile, 4, Warps, Stages>(a, plan, dependent, stream);
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
    FILIGREE_BITMASK(Values::i8, 7, 15, 10, 1);
    FILIGREE_BITMASK(Values::i8, 7, 15, 8, 2);
    FILIGREE_BITMASK(Values::i8, 13, 22, 8, 1);
    FILIGREE_BITMASK(Values::i8, 13, 22, 6, 2);
    FILIGREE_BITMASK(Values::i8, 24, 32, 4, 1);
  } else if (m.tiles == Tiles::two_four && bf16) {
    FILIGREE_TILES(Values::bf16, TwoFourTile<Values::bf16>, 16, 2);
    FILIGREE_TILES(Values::bf16, TwoFourTile<Values::bf16>, 8, 4);
  } else if (m.tiles == Tiles::two_four) {
    FILIGREE_TILES(Values::i8, TwoFourTile<Values::i8>, 16, 2);
    FILIGREE_TILES(Values::i8, TwoFourTile<Values::i8>, 8, 4);
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
  const Arguments a = {m, x, out, partials, plan.slice_blocks, plan.slices, plan.blocks_per_slice};
  const cudaError_t error = pick(a, plan, dependent, stream);
  if (error != cudaSuccess) return error;
  const uint32_t units = out.store == Store::swiglu ? ceil_div(m.row_tiles(), 2u) : m.row_tiles();
  return launch(join_kernel, dim3(ceil_div(units * x.tokens * 16, 256u)), 256, 0, dependent, stream, a);
}

}  // namespace filigree::cuda
