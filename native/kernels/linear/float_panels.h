#pragma once
// f32 and bf16 weights on AVX2 and NEON, whose masks are expanded by shuffles. A cursor per storage yields a tile's weights widened to
// f32; two drivers use it: decode multiplies what it yields in registers, batches let it fill a block of K in the first-level cache that
// all tokens then share. Every row is one chain of fused multiply-adds in ascending k, so both give the same bits.
//
// Lanes is the instruction set's arithmetic:
//   Register, kRegisters    a vector of floats, and how many are a panel's 16 rows
//   zero load store broadcast fma prefetch
//   store_rows(out, row, rows, register)    as store, to out + row, those rows below `rows` only
//   kTokenTile              tokens whose sums fill the registers
//   kTokenChunk             tokens that share one expansion; their activations stay in the second-level cache
//   multiply(count, block, x, cols, sums)   sums[kTokenTile][16] += block[cols][16] * x[cols][kTokenTile], the first `count` tokens
// and a Cursor has kCols columns a tile, kInPlace where tiles lie as the drivers want them, and
//   tile(t, Register (*w)[kRegisters])      w[column][part of the rows] of tile t, which ascends by one.
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "kernels/linear/linear.h"

namespace filigree::linear {
namespace {

constexpr uint32_t kBlockCols = 256;  // 16 KiB of expanded weights

// One token, P panels `apart` from each other together: as many independent chains as there are registers, one broadcast for all.
template <class Lanes, class Cursor, int P>
void decode_panels(const Matrix& m, const float* x, uint32_t panel, uint32_t apart, float* out) {
  using Register = typename Lanes::Register;
  constexpr int kCols = Cursor::kCols, kRegisters = Lanes::kRegisters;
  const size_t tiles = tile_count(m);
  auto cursors = [&]<size_t... I>(std::index_sequence<I...>) {
    return std::array<Cursor, P>{Cursor(m, panel + static_cast<uint32_t>(I) * apart)...};
  }(std::make_index_sequence<P>());
  Register acc[P][kRegisters];
  for (auto& a : acc) {
    for (auto& r : a) r = Lanes::zero();
  }
#pragma GCC unroll 2
  for (size_t t = 0; t < tiles; ++t) {
    Register b[kCols];
#pragma GCC unroll 2
    for (int c = 0; c < kCols; ++c) b[c] = Lanes::broadcast(x + t * kCols + c);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      Register w[kCols][kRegisters];
      cursors[p].tile(t, w);
#pragma GCC unroll 2
      for (int c = 0; c < kCols; ++c) {
#pragma GCC unroll 4
        for (int r = 0; r < kRegisters; ++r) acc[p][r] = Lanes::fma(w[c][r], b[c], acc[p][r]);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int r = 0; r < kRegisters; ++r) {
      const uint32_t row =
          (panel + static_cast<uint32_t>(p) * apart) * kPanelRows + static_cast<uint32_t>(r * Lanes::kLanes);
      Lanes::store_rows(out, row, m.rows, acc[p][r]);
    }
  }
}

template <class Lanes, class Cursor>
void decode(const Matrix& m, const float* x, uint32_t begin, uint32_t end, float* out) {
  // One panel from each half of the range: both streams of memory run on from panel to panel, and so do their prefetches.
  const uint32_t half = (end - begin) / 2;
  for (uint32_t p = 0; p < half; ++p) decode_panels<Lanes, Cursor, 2>(m, x, begin + p, half, out);
  if ((end - begin) % 2 != 0) decode_panels<Lanes, Cursor, 1>(m, x, end - 1, 0, out);
}

inline float element(const float* x, size_t k, const MatrixSpec& m) { return k < m.cols ? x[k] : 0.0f; }
inline float element(const uint16_t* x, size_t k, const MatrixSpec& m) {
  const uint32_t bits = k < m.cols ? uint32_t{x[k]} << 16 : 0;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <class Lanes, class Cursor>
void decode_bf16(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                 std::byte* workspace) {
  float* x = reinterpret_cast<float*>(workspace);
  for (size_t k = 0; k < padded_cols(m); ++k) x[k] = element(in.bf16, k, m);
  decode<Lanes, Cursor>(m, x, begin, end, out);
}

// x[tile of tokens][col][kTokenTile]: one stream for the multiplication, whatever the caller's stride.
template <class Lanes, class X>
void arrange(const MatrixSpec& m, const X* x, size_t stride, uint32_t tokens, float* out) {
  constexpr uint32_t kTile = Lanes::kTokenTile;
  const size_t cols = padded_cols(m);
  for (uint32_t t = 0; t < tokens; ++t) {
    float* to = out + size_t{t / kTile} * cols * kTile + t % kTile;
    for (size_t k = 0; k < cols; ++k) to[k * kTile] = element(x + t * stride, k, m);
  }
}

// The next `cols` columns of a panel from k0 on, [col][16]: in `block`, or where they lie. prefetch_next: for the first who reads them.
template <class Lanes, class Cursor>
__attribute__((always_inline)) inline const float* take_block(Cursor& cursor, size_t k0, size_t cols,
                                                              bool prefetch_next, float* block) {
  constexpr int kCols = Cursor::kCols, kRegisters = Lanes::kRegisters;
  if constexpr (Cursor::kInPlace) {
    const float* weights = cursor.w + k0 * kPanelRows;
    if (prefetch_next) {
      for (size_t i = 0; i < cols * kPanelRows; i += 16)
        Lanes::prefetch(weights + kBlockCols * kPanelRows + i);
    }
    return weights;
  } else {
    for (size_t k = 0; k < cols; k += kCols) {
      typename Lanes::Register w[kCols][kRegisters];
      cursor.tile((k0 + k) / kCols, w);
#pragma GCC unroll 2
      for (int c = 0; c < kCols; ++c) {
#pragma GCC unroll 4
        for (int r = 0; r < kRegisters; ++r)
          Lanes::store(block + (k + static_cast<size_t>(c)) * kPanelRows + r * Lanes::kLanes, w[c][r]);
      }
    }
    return block;
  }
}

template <class Lanes, class Cursor, class X>
void batch(const Matrix& m, const X* x, const Input& in, uint32_t begin, uint32_t end, float* out,
           size_t out_stride, std::byte* workspace) {
  constexpr uint32_t kTile = Lanes::kTokenTile, kChunk = Lanes::kTokenChunk;
  const size_t cols = padded_cols(m);
  float* block = reinterpret_cast<float*>(workspace);
  float* sums = block + kBlockCols * kPanelRows;
  float* arranged = sums + kChunk * kPanelRows;
  for (uint32_t first = 0; first < in.tokens; first += kChunk) {
    const uint32_t tokens = std::min(kChunk, in.tokens - first);
    arrange<Lanes>(m, x + first * in.stride, in.stride, tokens, arranged);
    for (uint32_t panel = begin; panel < end; ++panel) {
      Cursor cursor(m, panel);
      std::memset(sums, 0, size_t{kChunk} * kPanelRows * sizeof(float));
      for (size_t k0 = 0; k0 < cols; k0 += kBlockCols) {
        const size_t n = std::min<size_t>(kBlockCols, cols - k0);
        const float* weights = take_block<Lanes>(cursor, k0, n, first == 0, block);
        for (uint32_t t = 0; t < tokens; t += kTile) {
          Lanes::multiply(std::min(kTile, tokens - t), weights, arranged + t * cols + k0 * kTile, n,
                          sums + t * kPanelRows);
        }
      }
      for (uint32_t t = 0; t < tokens; ++t) {
        float* row = out + (first + t) * out_stride;
        for (uint32_t r = 0; r < kPanelRows; r += Lanes::kLanes)
          Lanes::store_rows(row, panel * kPanelRows + r, m.rows, Lanes::load(sums + t * kPanelRows + r));
      }
    }
  }
}

template <class Lanes>
size_t float_workspace(const MatrixSpec& m, uint32_t tokens) {
  constexpr uint32_t kTile = Lanes::kTokenTile, kChunk = Lanes::kTokenChunk;
  if (tokens == 1) return size_t{padded_cols(m)} * sizeof(float);
  const size_t arranged = (std::min(tokens, kChunk) + kTile - 1) / kTile * kTile;
  return (size_t{kBlockCols} * kPanelRows + size_t{kChunk} * kPanelRows + arranged * padded_cols(m)) *
         sizeof(float);
}

}  // namespace
}  // namespace filigree::linear

// Defines the eight kernels of an instruction set and their workspace out of its Lanes and its four cursors.
#define FILIGREE_FLOAT_KERNEL(name)                                                     \
  void name(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, \
            [[maybe_unused]] size_t out_stride, [[maybe_unused]] std::byte* workspace)
#define FILIGREE_FLOAT_KERNELS(isa)                                                                          \
  size_t isa##_float_workspace(const MatrixSpec& m, uint32_t tokens) {                                       \
    return float_workspace<Lanes>(m, tokens);                                                                \
  }                                                                                                          \
  FILIGREE_FLOAT_KERNEL(isa##_f32_dense_decode) { decode<Lanes, DenseF32>(m, in.f32, begin, end, out); }     \
  FILIGREE_FLOAT_KERNEL(isa##_f32_bitmask_decode) { decode<Lanes, BitmaskF32>(m, in.f32, begin, end, out); } \
  FILIGREE_FLOAT_KERNEL(isa##_bf16_dense_decode) {                                                           \
    decode_bf16<Lanes, DenseBf16>(m, in, begin, end, out, workspace);                                        \
  }                                                                                                          \
  FILIGREE_FLOAT_KERNEL(isa##_bf16_bitmask_decode) {                                                         \
    decode_bf16<Lanes, BitmaskBf16>(m, in, begin, end, out, workspace);                                      \
  }                                                                                                          \
  FILIGREE_FLOAT_KERNEL(isa##_f32_dense) {                                                                   \
    batch<Lanes, DenseF32>(m, in.f32, in, begin, end, out, out_stride, workspace);                           \
  }                                                                                                          \
  FILIGREE_FLOAT_KERNEL(isa##_f32_bitmask) {                                                                 \
    batch<Lanes, BitmaskF32>(m, in.f32, in, begin, end, out, out_stride, workspace);                         \
  }                                                                                                          \
  FILIGREE_FLOAT_KERNEL(isa##_bf16_dense) {                                                                  \
    batch<Lanes, DenseBf16>(m, in.bf16, in, begin, end, out, out_stride, workspace);                         \
  }                                                                                                          \
  FILIGREE_FLOAT_KERNEL(isa##_bf16_bitmask) {                                                                \
    batch<Lanes, BitmaskBf16>(m, in.bf16, in, begin, end, out, out_stride, workspace);                       \
  }
