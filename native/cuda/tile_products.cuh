#pragma once

#include "cuda/linear.h"
#include "cuda/ptx.cuh"

// How the blocks of each tile layout become tensor-core products, for the kernel of tiles.cu.
//
//   start     once
//   take      from the stage into registers and windows; a layout that has windows frees its stage by it
//   multiply  the block with the activations at x, a row of tokens every row_bytes
// kBytes is the size of every block, or 0 where they differ.
//
// A bitmask block is spread into windows: slot s of a lane holds the 32 bits of stored values from value s on, at
// slot * 128 + lane * 4 (no bank conflicts), so that a register of a fragment is one shared load and one byte permutation whose
// selector the mask's bits spell; the number of those bits, times 128, leads to the next window.

namespace filigree::cuda {

// All of a block's shared memory.
extern __shared__ __align__(128) uint8_t shared[];

template <Values Kind, int Lead, int Most>
struct BitmaskTile {
  static constexpr int kPer = Kind == Values::bf16 ? 4 : 8;   // values a chunk
  static constexpr uint32_t kWarpShared = Most * kPer * 128;  // of windows
  static constexpr uint32_t kRowPad = 64;                     // activations: rows half a bank line apart
  static constexpr uint32_t kCols = tile_cols(Kind, Tiles::bitmask), kBytes = 0;
  uint4 masks;
  uint32_t
      slots;  // an address, not an offset: there are 64 windows to a block, and a base would be added to each

  FILIGREE_DEVICE void start(uint32_t warp_shared, int lane) {
    slots = shared_address(shared) + warp_shared + lane * 4;
  }
  FILIGREE_DEVICE static uint32_t x_offset(uint32_t row_bytes, int lane) {
    return lane / 4 * row_bytes + lane % 4 * 16;
  }

  // From the stage into registers and windows; the stage is free afterwards.
  FILIGREE_DEVICE void take(uint32_t stage, int lane) {
    const uint8_t* block = shared + stage;
    uint2 chunk[Most];
    masks = *reinterpret_cast<const uint4*>(block + lane * 16);
    const uint8_t* lead = block + kMaskWords * 128;
#pragma unroll
    for (int j = 0; j < Lead; ++j) chunk[j] = *reinterpret_cast<const uint2*>(lead + j * 256 + lane * 8);
    const int stored = __popc(masks.x) + __popc(masks.y) + __popc(masks.z) + __popc(masks.w);
    const int chunks = (stored + kPer - 1) / kPer, most = __reduce_max_sync(~0u, chunks);
    const int tail = max(chunks - Lead, 0);
    int before = 0;  // chunks of the tail that lanes below have, bit by bit
#pragma unroll
    for (int bit = 0; (Most - Lead) >> bit != 0; ++bit)
      before += __popc(__ballot_sync(~0u, tail >> bit & 1) & lanes_below()) << bit;
    const uint8_t* rest = lead + Lead * 256 + before * 8;
    uint32_t last = 0;
#pragma unroll
    for (int j = 0; j < Lead; ++j) spread(j, chunk[j], last);
#pragma unroll
    for (int j = Lead; j < Most; ++j) {
      if (j < chunks) chunk[j] = *reinterpret_cast<const uint2*>(rest + (j - Lead) * 8);
    }
#pragma unroll
    for (int j = Lead; j < Most; ++j) {
      if (j > most) break;
      spread(j, chunk[j], last);
    }
    if (most >= Most) {
      const uint32_t at = slots + Most * kPer * 128;
      if constexpr (Kind == Values::bf16) {
        store_shared_u32(at - 128, last >> 16);
      } else {
        store_shared_u32(at - 384, last >> 8);
        store_shared_u32(at - 256, last >> 16);
        store_shared_u32(at - 128, last >> 24);
      }
    }
    __syncwarp();
  }

  FILIGREE_DEVICE void spread(int j, uint2 chunk, uint32_t& last) const {
    const uint32_t at = slots + j * kPer * 128;
    const auto put = [&](int slot, uint32_t window) { store_shared_u32(at + slot * 128, window); };
    if constexpr (Kind == Values::bf16) {
      if (j > 0) put(-1, prmt(last, chunk.x, 0x5432));
      put(0, chunk.x);
      put(1, prmt(chunk.x, chunk.y, 0x5432));
      put(2, chunk.y);
    } else {
      if (j > 0) {
        put(-3, prmt(last, chunk.x, 0x4321));
        put(-2, prmt(last, chunk.x, 0x5432));
        put(-1, prmt(last, chunk.x, 0x6543));
      }
      put(0, chunk.x);
      put(1, prmt(chunk.x, chunk.y, 0x4321));
      put(2, prmt(chunk.x, chunk.y, 0x5432));
      put(3, prmt(chunk.x, chunk.y, 0x6543));
      put(4, chunk.y);
    }
    last = chunk.y;
  }

  // bits: the mask bits of one register, at 0 and 8 (bf16) or 0, 8, 16, 24 (i8), all shifted left by j.
  FILIGREE_DEVICE static uint32_t selector(uint32_t bits, int j) {
    if constexpr (Kind == Values::bf16) return bits * (0x21bcu >> j) + 0x5454u;
    return __dp2a_lo((0x10c0u >> j) << 16 | (0x110cu >> j), bits,
                     __dp2a_hi((0xc000u >> j) << 16 | (0x0c00u >> j), bits, 0x4444u));
  }

  template <int TokenTiles, class Sum>
  FILIGREE_DEVICE void multiply(uint32_t, uint32_t x, uint32_t row_bytes, int,
                                Sum (&sum)[TokenTiles][4]) const {
    // The words' windows as two chains of addresses, one step of each in turn: an address waits for the one before. With 32
    // tokens' sums a second one is slower.
    constexpr int kSteps = Kind == Values::bf16 ? 2 : 1, kChains = TokenTiles < 4 ? 2 : 1;
    constexpr int kWords = kMaskWords / kChains;
    uint32_t at[kChains];
    at[0] = slots;
    if constexpr (kChains == 2) at[1] = slots + 128 * (__popc(masks.x) + __popc(masks.y));
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint4 b[kChains][TokenTiles];
#pragma unroll
        for (int c = 0; c < kChains; ++c) {
#pragma unroll
          for (int n = 0; n < TokenTiles; ++n)
            b[c][n] = *reinterpret_cast<const uint4*>(shared + x + n * 8 * row_bytes +
                                                      ((c * kWords + w) * kSteps + step) * 64);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t a[kChains][4];
#pragma unroll
          for (int r = 0; r < 4; ++r) {
#pragma unroll
            for (int c = 0; c < kChains; ++c) {
              const int of = c * kWords + w;
              const uint32_t word = of == 0 ? masks.x : of == 1 ? masks.y : of == 2 ? masks.z : masks.w;
              // Three shifts of a word serve eight registers: the rest of the shift is a factor of the selector.
              const int index = half * 4 + r, j = index % 3;
              const uint32_t shifted = word >> (16 * step + index / 3 * 3);
              const uint32_t bits = shifted & ((Kind == Values::bf16 ? 0x101u : 0x01010101u) << j);
              const uint32_t window = shared_u32_ordered(at[c]);
              a[c][r] = prmt(window, 0, selector(bits, j));
              at[c] = __dp4a(bits, (128u >> j) * 0x01010101u, at[c]);
            }
          }
#pragma unroll
          for (int c = 0; c < kChains; ++c) {
#pragma unroll
            for (int n = 0; n < TokenTiles; ++n)
              mma(sum[n], a[c], half ? b[c][n].z : b[c][n].x, half ? b[c][n].w : b[c][n].y);
          }
        }
      }
    }
  }
};

template <Values Kind>
struct DenseTile {
  static constexpr uint32_t kWarpShared = 0, kRowPad = 64;
  static constexpr uint32_t kCols = tile_cols(Kind, Tiles::dense), kBytes = kDenseBlockBytes;
  FILIGREE_DEVICE void start(uint32_t, int) {}
  FILIGREE_DEVICE static uint32_t x_offset(uint32_t row_bytes, int lane) {
    return lane / 4 * row_bytes + lane % 4 * 16;
  }
  FILIGREE_DEVICE void take(uint32_t, int) {}

  template <int TokenTiles, class Sum>
  FILIGREE_DEVICE void multiply(uint32_t stage, uint32_t x, uint32_t row_bytes, int lane,
                                Sum (&sum)[TokenTiles][4]) const {
#pragma unroll
    for (int step = 0; step < 8; ++step) {
      uint4 b[TokenTiles];
#pragma unroll
      for (int n = 0; n < TokenTiles; ++n)
        b[n] = *reinterpret_cast<const uint4*>(shared + x + n * 8 * row_bytes + step * 64);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 four =
            *reinterpret_cast<const uint4*>(shared + stage + (step * 2 + half) * 512 + lane * 16);
        const uint32_t a[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int n = 0; n < TokenTiles; ++n) mma(sum[n], a, half ? b[n].z : b[n].x, half ? b[n].w : b[n].y);
      }
    }
  }
};

template <Values Kind>
struct TwoFourTile {
  static constexpr uint32_t kWarpShared = 0;
  static constexpr uint32_t kRowPad = 16;  // ldmatrix reads 16 bytes of each of 8 rows
  static constexpr uint32_t kCols = tile_cols(Kind, Tiles::two_four), kBytes = two_four_block_bytes(Kind);
  FILIGREE_DEVICE void start(uint32_t, int) {}
  FILIGREE_DEVICE static uint32_t x_offset(uint32_t row_bytes, int lane) {
    return lane % 8 * row_bytes + lane / 8 * 16;
  }
  FILIGREE_DEVICE void take(uint32_t, int) {}

  template <int TokenTiles, class Sum>
  FILIGREE_DEVICE void multiply(uint32_t stage, uint32_t x, uint32_t row_bytes, int lane,
                                Sum (&sum)[TokenTiles][4]) const {
    const uint32_t base = shared_address(shared);
#pragma unroll
    for (int step = 0; step < 8; ++step) {
      const uint4 a = *reinterpret_cast<const uint4*>(shared + stage + step * 512 + lane * 16);
      const int pair = Kind == Values::bf16 ? step / 2 : step;
      const uint32_t meta =
          *reinterpret_cast<const uint32_t*>(shared + stage + 8 * 512 + pair * 128 + lane * 4);
#pragma unroll
      for (int n = 0; n < TokenTiles; ++n) {
        const uint4 b = load_matrices(base + x + n * 8 * row_bytes + step * 64);
        if (Kind == Values::bf16 && step % 2) {
          mma_sparse<1>(sum[n], a, b, meta);
        } else {
          mma_sparse<0>(sum[n], a, b, meta);
        }
      }
    }
  }
};

}  // namespace filigree::cuda
