// f32 and bf16 weights on NEON: float_panels.h. (bfdot rounds otherwise on every generation of cores; it is not used.)
#include "kernels/linear/float_panels.h"
#include "kernels/linear/neon_common.h"

namespace filigree::linear {
namespace {

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

// Cursors: four registers of four rows.
struct DenseF32 {
  static constexpr bool kInPlace = true;
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
  static constexpr bool kInPlace = false;
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
  static constexpr bool kInPlace = false;
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
  static constexpr bool kInPlace = false;
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

constexpr uint32_t kTokenTile = 4;  // 16 accumulators, 4 weights, one register of activations

// All tokens of a tile: what is there beyond the last one is multiplied for nobody.
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

struct Lanes {
  using Register = float32x4_t;
  static constexpr int kRegisters = 4, kLanes = 4;
  static constexpr uint32_t kTokenTile = linear::kTokenTile, kTokenChunk = 64;
  static FILIGREE_INLINE Register zero() { return vdupq_n_f32(0); }
  static FILIGREE_INLINE Register load(const float* p) { return vld1q_f32(p); }
  static FILIGREE_INLINE void store(float* p, Register a) { vst1q_f32(p, a); }
  static FILIGREE_INLINE Register broadcast(const float* p) { return vld1q_dup_f32(p); }
  static FILIGREE_INLINE Register fma(Register a, Register b, Register c) { return vfmaq_f32(c, a, b); }
  static FILIGREE_INLINE void prefetch(const void* p) { linear::prefetch(p); }
  static FILIGREE_INLINE void store_rows(float* out, uint32_t row, uint32_t rows, Register a) {
    linear::store_rows(out, row, rows, a);
  }
  static void multiply(uint32_t, const float* block, const float* x, size_t cols, float* sums) {
    linear::multiply(block, x, cols, sums);
  }
};

}  // namespace

FILIGREE_FLOAT_KERNELS(neon)

}  // namespace filigree::linear
