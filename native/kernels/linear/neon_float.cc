// f32 and bf16 weights on NEON: a cursor per storage yields a tile widened to f32; decode multiplies what it yields in registers,
// batches let it fill a block of K in the first-level cache that all tokens share. Every row is one chain of fused multiply-adds
// in ascending k, so both give the same bits. (bfdot rounds otherwise on every generation of cores; it is not used.)
#include "kernels/linear/neon_common.h"

namespace filigree::linear {
namespace {

constexpr uint32_t kTokenTile = 4;    // 16 accumulators, 4 weights, one register of activations
constexpr uint32_t kTokenChunk = 64;  // tokens that share one expansion
constexpr uint32_t kBlockCols = 256;  // 16 KiB of expanded weights

// Byte shuffles that put stored elements in place, by mask; 0x80 gives zero. Four elements of 4 bytes, or eight of 2.
template <int kElements, int kBytes>
struct Places {
  alignas(16) uint8_t at[1 << kElements][16];
  uint8_t count[1 << kElements];
};
template <int kElements, int kBytes>
constexpr Places<kElements, kBytes> make_places() {
  Places<kElements, kBytes> t{};
  for (int mask = 0; mask < 1 << kElements; ++mask) {
    int rank = 0;
    for (int j = 0; j < kElements; ++j) {
      const bool stored = (mask >> j & 1) != 0;
      for (int b = 0; b < kBytes; ++b)
        t.at[mask][j * kBytes + b] = static_cast<uint8_t>(stored ? rank * kBytes + b : 0x80);
      rank += stored;
    }
    t.count[mask] = static_cast<uint8_t>(rank);
  }
  return t;
}
constexpr auto kPlacesF32 = make_places<4, 4>();
constexpr auto kPlacesBf16 = make_places<8, 2>();

// Cursors: tile(t, w) yields w[column][quad of rows] of tile t; t ascends by one.
struct DenseF32 {
  static constexpr int kCols = 1;
  const float* w;
  DenseF32(const Matrix& m, uint32_t panel)
      : w(reinterpret_cast<const float*>(m.values) + size_t{panel} * tile_count(m) * kPanelRows) {}
  FILIGREE_INLINE void tile(size_t t, float32x4_t (*out)[4]) {
    prefetch(w + t * kPanelRows + 512);
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) out[0][g] = vld1q_f32(w + t * kPanelRows + 4 * g);
  }
};

FILIGREE_INLINE void widen(uint16x8_t pairs, int quad, float32x4_t (*out)[4]) {
  const uint32x4_t both = vreinterpretq_u32_u16(pairs);
  out[0][quad] = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
  out[1][quad] = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)));
}

struct DenseBf16 {
  static constexpr int kCols = 2;
  const uint16_t* w;
  DenseBf16(const Matrix& m, uint32_t panel)
      : w(reinterpret_cast<const uint16_t*>(m.values) + size_t{panel} * tile_count(m) * kPanelRows * 2) {}
  FILIGREE_INLINE void tile(size_t t, float32x4_t (*out)[4]) {
    prefetch(w + t * 32 + 1024);
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) widen(vld1q_u16(w + t * 32 + 8 * g), g, out);
  }
};

struct BitmaskF32 {
  static constexpr int kCols = 1;
  const float* w;
  const uint16_t* masks;
  BitmaskF32(const Matrix& m, uint32_t panel)
      : w(reinterpret_cast<const float*>(m.values + m.offsets[panel])),
        masks(reinterpret_cast<const uint16_t*>(m.masks) + size_t{panel} * tile_count(m)) {}
  FILIGREE_INLINE void tile(size_t t, float32x4_t (*out)[4]) {
    const uint32_t mask = masks[t];
    prefetch(w + 256);
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) {
      const uint32_t nibble = mask >> (4 * g) & 15;
      const uint8x16_t values = vreinterpretq_u8_f32(vld1q_f32(w));
      out[0][g] = vreinterpretq_f32_u8(vqtbl1q_u8(values, vld1q_u8(kPlacesF32.at[nibble])));
      w += kPlacesF32.count[nibble];
    }
  }
};

struct BitmaskBf16 {
  static constexpr int kCols = 2;
  const uint16_t* w;
  const uint8_t* masks;
  BitmaskBf16(const Matrix& m, uint32_t panel)
      : w(reinterpret_cast<const uint16_t*>(m.values + m.offsets[panel])),
        masks(reinterpret_cast<const uint8_t*>(m.masks) + size_t{panel} * tile_count(m) * 4) {}
  FILIGREE_INLINE void tile(size_t t, float32x4_t (*out)[4]) {
    prefetch(w + 512);
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) {
      const uint32_t mask = masks[4 * t + g];
      const uint8x16_t values = vreinterpretq_u8_u16(vld1q_u16(w));
      widen(vreinterpretq_u16_u8(vqtbl1q_u8(values, vld1q_u8(kPlacesBf16.at[mask]))), g, out);
      w += kPlacesBf16.count[mask];
    }
  }
};

template <class Cursor, int P>
void decode_panels(const Matrix& m, const float* x, uint32_t panel, float* out) {
  constexpr int kCols = Cursor::kCols;
  auto cursors = cursors_at<Cursor, P>(m, panel);
  float32x4_t acc[P][4];
  for (auto& p : acc) {
    for (auto& a : p) a = vdupq_n_f32(0);
  }
  for (size_t t = 0; t < tile_count(m); ++t) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      float32x4_t w[kCols][4];
      cursors[p].tile(t, w);
#pragma GCC unroll 8
      for (int c = 0; c < kCols; ++c) {
#pragma GCC unroll 8
        for (int g = 0; g < 4; ++g) acc[p][g] = vfmaq_n_f32(acc[p][g], w[c][g], x[t * kCols + c]);
      }
    }
  }
#pragma GCC unroll 8
  for (uint32_t p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (uint32_t g = 0; g < 4; ++g) store_rows(out, (panel + p) * kPanelRows + 4 * g, m.rows, acc[p][g]);
  }
}

template <class Cursor>
void decode(const Matrix& m, const float* x, uint32_t begin, uint32_t end, float* out) {
  uint32_t panel = begin;
  for (; panel + 2 <= end; panel += 2) decode_panels<Cursor, 2>(m, x, panel, out);
  if (panel < end) decode_panels<Cursor, 1>(m, x, panel, out);
}

// sums[kTokenTile][16] += block[cols][16] * x[cols][kTokenTile].
void multiply(const float* block, const float* x, size_t cols, float* sums) {
  float32x4_t acc[kTokenTile][4];
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kTokenTile; ++i) {
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) acc[i][g] = vld1q_f32(sums + i * 16 + 4 * g);
  }
  for (size_t k = 0; k < cols; ++k) {
    const float32x4_t b = vld1q_f32(x + k * kTokenTile);
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) {
      const float32x4_t w = vld1q_f32(block + k * 16 + 4 * g);
      acc[0][g] = vfmaq_laneq_f32(acc[0][g], w, b, 0);
      acc[1][g] = vfmaq_laneq_f32(acc[1][g], w, b, 1);
      acc[2][g] = vfmaq_laneq_f32(acc[2][g], w, b, 2);
      acc[3][g] = vfmaq_laneq_f32(acc[3][g], w, b, 3);
    }
  }
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kTokenTile; ++i) {
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) vst1q_f32(sums + i * 16 + 4 * g, acc[i][g]);
  }
}

uint32_t chunk_tokens(uint32_t tokens) {
  return (std::min(tokens, kTokenChunk) + kTokenTile - 1) / kTokenTile * kTokenTile;
}

float element(const float* x, size_t k, const MatrixSpec& m) { return k < m.cols ? x[k] : 0.0f; }
float element(const uint16_t* x, size_t k, const MatrixSpec& m) {
  const uint32_t bits = k < m.cols ? uint32_t{x[k]} << 16 : 0;
  return load_as<float>(&bits);
}

template <class Cursor, class X>
void batch(const Matrix& m, const X* x, const Input& in, uint32_t begin, uint32_t end, float* out,
           size_t out_stride, std::byte* workspace) {
  const size_t cols = padded_cols(m);
  float* block = reinterpret_cast<float*>(workspace);
  float* sums = block + kBlockCols * kPanelRows;
  float* arranged = sums + kTokenChunk * kPanelRows;
  for (uint32_t first = 0; first < in.tokens; first += kTokenChunk) {
    const uint32_t tokens = std::min(kTokenChunk, in.tokens - first);
    // [tile of tokens][col][kTokenTile]; tokens that are not there are zero.
    std::memset(arranged, 0, chunk_tokens(tokens) * cols * sizeof(float));
    for (uint32_t t = 0; t < tokens; ++t) {
      float* to = arranged + size_t{t / kTokenTile} * cols * kTokenTile + t % kTokenTile;
      for (size_t k = 0; k < cols; ++k) to[k * kTokenTile] = element(x + (first + t) * in.stride, k, m);
    }
    for (uint32_t panel = begin; panel < end; ++panel) {
      Cursor cursor(m, panel);
      std::memset(sums, 0, chunk_tokens(tokens) * kPanelRows * sizeof(float));
      for (size_t k0 = 0; k0 < cols; k0 += kBlockCols) {
        const size_t n = std::min<size_t>(kBlockCols, cols - k0);
        for (size_t k = 0; k < n; k += Cursor::kCols) {
          float32x4_t w[Cursor::kCols][4];
          cursor.tile((k0 + k) / Cursor::kCols, w);
#pragma GCC unroll 8
          for (int c = 0; c < Cursor::kCols; ++c) {
#pragma GCC unroll 8
            for (int g = 0; g < 4; ++g) vst1q_f32(block + (k + c) * kPanelRows + 4 * g, w[c][g]);
          }
        }
        for (uint32_t t = 0; t < tokens; t += kTokenTile) {
          multiply(block, arranged + t * cols + k0 * kTokenTile, n, sums + t * kPanelRows);
        }
      }
      for (uint32_t t = 0; t < tokens; ++t) {
#pragma GCC unroll 8
        for (uint32_t g = 0; g < 4; ++g) {
          store_rows(out + (first + t) * out_stride, panel * kPanelRows + 4 * g, m.rows,
                     vld1q_f32(sums + t * kPanelRows + 4 * g));
        }
      }
    }
  }
}

template <class Cursor>
void decode_bf16(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                 std::byte* workspace) {
  float* x = reinterpret_cast<float*>(workspace);
  for (size_t k = 0; k < padded_cols(m); ++k) x[k] = element(in.bf16, k, m);
  decode<Cursor>(m, x, begin, end, out);
}

}  // namespace

size_t neon_float_workspace(const MatrixSpec& m, uint32_t tokens) {
  if (tokens == 1) return size_t{padded_cols(m)} * sizeof(float);
  return (size_t{kBlockCols} * kPanelRows + size_t{kTokenChunk} * kPanelRows +
          size_t{chunk_tokens(tokens)} * padded_cols(m)) *
         sizeof(float);
}

#define FILIGREE_KERNEL(name)                                                           \
  void name(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, \
            [[maybe_unused]] size_t out_stride, [[maybe_unused]] std::byte* workspace)

FILIGREE_KERNEL(neon_f32_dense_decode) { decode<DenseF32>(m, in.f32, begin, end, out); }
FILIGREE_KERNEL(neon_f32_bitmask_decode) { decode<BitmaskF32>(m, in.f32, begin, end, out); }
FILIGREE_KERNEL(neon_bf16_dense_decode) { decode_bf16<DenseBf16>(m, in, begin, end, out, workspace); }
FILIGREE_KERNEL(neon_bf16_bitmask_decode) { decode_bf16<BitmaskBf16>(m, in, begin, end, out, workspace); }
FILIGREE_KERNEL(neon_f32_dense) { batch<DenseF32>(m, in.f32, in, begin, end, out, out_stride, workspace); }
FILIGREE_KERNEL(neon_f32_bitmask) {
  batch<BitmaskF32>(m, in.f32, in, begin, end, out, out_stride, workspace);
}
FILIGREE_KERNEL(neon_bf16_dense) { batch<DenseBf16>(m, in.bf16, in, begin, end, out, out_stride, workspace); }
FILIGREE_KERNEL(neon_bf16_bitmask) {
  batch<BitmaskBf16>(m, in.bf16, in, begin, end, out, out_stride, workspace);
}

#undef FILIGREE_KERNEL

}  // namespace filigree::linear
