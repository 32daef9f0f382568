#pragma once
// i8 and i4 weights on NEON, once for sdot (neon_integer.cc) and once for smmla in batches (neoni8mm_integer.cc). A cursor yields
// the signed codes of a tile, four registers of 4 rows by 4 columns; an element that is not stored is 0, so no correction is
// needed. Decode multiplies in registers; batches expand a block of K of two panels and run all tokens over it.
#include "kernels/linear/neon_common.h"

namespace filigree::linear {
namespace {

constexpr uint32_t kTokenTile = 4;
constexpr uint32_t kTokenChunk = 128;  // tokens that share one expansion
constexpr uint32_t kBlockTiles = 128;  // of each of two panels: 16 KiB of codes
constexpr size_t kBlockBytes = kBlockTiles * 64;

struct BytePlaces {
  alignas(16) uint8_t at[256][8];  // by a byte of mask; 0x80 gives zero, and still does with up to 8 added
  uint8_t count[256];
};
constexpr BytePlaces make_byte_places() {
  BytePlaces t{};
  for (int mask = 0; mask < 256; ++mask) {
    int rank = 0;
    for (int j = 0; j < 8; ++j) t.at[mask][j] = static_cast<uint8_t>((mask >> j & 1) != 0 ? rank++ : 0x80);
    t.count[mask] = static_cast<uint8_t>(rank);
  }
  return t;
}
constexpr BytePlaces kBytePlaces = make_byte_places();

// The places of 16 elements, and how many are stored.
FILIGREE_INLINE uint8x16_t places_of(const uint8_t* mask) {
  const uint8x8_t high = vadd_u8(vld1_u8(kBytePlaces.at[mask[1]]), vdup_n_u8(kBytePlaces.count[mask[0]]));
  return vcombine_u8(vld1_u8(kBytePlaces.at[mask[0]]), high);
}
FILIGREE_INLINE size_t stored_in(const uint8_t* mask) {
  return size_t{kBytePlaces.count[mask[0]]} + kBytePlaces.count[mask[1]];
}

struct DenseI8 {
  static constexpr int kGroupTiles = 0;
  static constexpr bool kDense = true;
  const int8_t* w;
  DenseI8(const Matrix& m, uint32_t panel)
      : w(reinterpret_cast<const int8_t*>(m.values) + size_t{panel} * tile_count(m) * 64) {}
  FILIGREE_INLINE void tile(size_t t, int8x16_t* out) {
    prefetch(w + t * 64 + 2048);
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) out[g] = vld1q_s8(w + t * 64 + 16 * g);
  }
};

struct BitmaskI8 {
  static constexpr int kGroupTiles = 0;
  static constexpr bool kDense = false;
  const uint8_t* w;
  const uint8_t* masks;
  BitmaskI8(const Matrix& m, uint32_t panel)
      : w(reinterpret_cast<const uint8_t*>(m.values + m.offsets[panel])),
        masks(reinterpret_cast<const uint8_t*>(m.masks) + size_t{panel} * tile_count(m) * 8) {}
  FILIGREE_INLINE void tile(size_t t, int8x16_t* out) {
    prefetch(w + 1024);
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) {
      const uint8_t* mask = masks + t * 8 + 2 * g;
      out[g] = vreinterpretq_s8_u8(vqtbl1q_u8(vld1q_u8(w), places_of(mask)));
      w += stored_in(mask);
    }
  }
};

// A panel's nibbles of the bytes it shares with its neighbour, as u - 8 or, with a minimum, u.
struct Nibbles {
  int8x16_t shift;
  uint8x16_t zero;
  Nibbles(const Matrix& m, uint32_t panel)
      : shift(vdupq_n_s8(panel % 2 == 0 ? 0 : -4)), zero(vdupq_n_u8(m.has_min ? 0 : 8)) {}
  FILIGREE_INLINE uint8x16_t operator()(uint8x16_t bytes) const {
    return vsubq_u8(vandq_u8(vshlq_u8(bytes, shift), vdupq_n_u8(15)), zero);
  }
};

template <int kTiles>
struct DenseI4 {
  static constexpr int kGroupTiles = kTiles;
  static constexpr bool kDense = true;
  Nibbles nibbles;
  const uint8_t* w;
  DenseI4(const Matrix& m, uint32_t panel)
      : nibbles(m, panel),
        w(reinterpret_cast<const uint8_t*>(m.values) + size_t{panel / 2} * tile_count(m) * 64) {}
  FILIGREE_INLINE void tile(size_t t, int8x16_t* out) {
    prefetch(w + t * 64 + 2048);
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) out[g] = vreinterpretq_s8_u8(nibbles(vld1q_u8(w + t * 64 + 16 * g)));
  }
  FILIGREE_INLINE void stored(size_t, int8x16_t*) {}
};

template <int kTiles>
struct BitmaskI4 {
  static constexpr int kGroupTiles = kTiles;
  static constexpr bool kDense = false;
  Nibbles nibbles;
  const uint8_t* w;
  const uint8_t* masks;
  BitmaskI4(const Matrix& m, uint32_t panel)
      : nibbles(m, panel),
        w(reinterpret_cast<const uint8_t*>(m.values + m.offsets[panel / 2])),
        masks(reinterpret_cast<const uint8_t*>(m.masks) + size_t{panel} * tile_count(m) * 8) {}
  FILIGREE_INLINE void tile(size_t t, int8x16_t* out) {
    prefetch(w + 1024);
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) {
      const uint8_t* mask = masks + t * 8 + 2 * g;
      out[g] = vreinterpretq_s8_u8(vqtbl1q_u8(nibbles(vld1q_u8(w)), places_of(mask)));
      w += stored_in(mask);
    }
  }
  // 1 where an element is stored.
  FILIGREE_INLINE void stored(size_t t, int8x16_t* out) {
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) {
      out[g] = vreinterpretq_s8_u8(vsubq_u8(vdupq_n_u8(1), vshrq_n_u8(places_of(masks + t * 8 + 2 * g), 7)));
    }
  }
};

FILIGREE_INLINE void store_i8(const Matrix& m, uint32_t row, int32x4_t sum, float scale, float* out) {
  const float32x4_t scaled = vmulq_f32(vcvtq_f32_s32(sum), vld1q_f32(m.row_scales + row));
  store_rows(out, row, m.rows, vmulq_n_f32(scaled, scale));
}

FILIGREE_INLINE float32x4_t half_floats(const uint16_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

template <class Cursor, int P>
void decode_i8_panels(const Matrix& m, const Input& in, uint32_t panel, float* out) {
  auto cursors = cursors_at<Cursor, P>(m, panel);
  int32x4_t acc[P][4];
  for (auto& p : acc) {
    for (auto& a : p) a = vdupq_n_s32(0);
  }
  for (size_t t = 0; t < tile_count(m); ++t) {
    const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(load_as<int32_t>(in.i8 + 4 * t)));
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      int8x16_t w[4];
      cursors[p].tile(t, w);
#pragma GCC unroll 8
      for (int g = 0; g < 4; ++g) acc[p][g] = vdotq_s32(acc[p][g], w[g], x);
    }
  }
#pragma GCC unroll 8
  for (uint32_t p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (uint32_t g = 0; g < 4; ++g)
      store_i8(m, (panel + p) * kPanelRows + 4 * g, acc[p][g], in.scales[0], out);
  }
}

template <class Cursor>
void decode_i8(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out) {
  uint32_t panel = begin;
  for (; panel + 2 <= end; panel += 2) decode_i8_panels<Cursor, 2>(m, in, panel, out);
  if (panel < end) decode_i8_panels<Cursor, 1>(m, in, panel, out);
}

template <class Cursor>
void decode_i4(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out) {
  const size_t groups = group_count(m);
  for (uint32_t panel = begin; panel < end; panel += 2) {
    auto cursors = cursors_at<Cursor, 2>(m, panel);
    float32x4_t f[2][4];
    for (auto& p : f) {
      for (auto& v : p) v = vdupq_n_f32(0);
    }
    for (size_t group = 0; group < groups; ++group) {
      int32x4_t sums[2][4], present[2][4];
#pragma GCC unroll 8
      for (int p = 0; p < 2; ++p) {
#pragma GCC unroll 8
        for (int g = 0; g < 4; ++g) {
          sums[p][g] = vdupq_n_s32(0);
          present[p][g] = vdupq_n_s32(m.has_min && Cursor::kDense ? in.group_sums[group] : 0);
        }
      }
      for (int i = 0; i < Cursor::kGroupTiles; ++i) {
        const size_t t = group * Cursor::kGroupTiles + i;
        const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(load_as<int32_t>(in.i8 + 4 * t)));
#pragma GCC unroll 8
        for (int p = 0; p < 2; ++p) {
          int8x16_t w[4];
          cursors[p].tile(t, w);
#pragma GCC unroll 8
          for (int g = 0; g < 4; ++g) sums[p][g] = vdotq_s32(sums[p][g], w[g], x);
          if (!Cursor::kDense && m.has_min) {
            cursors[p].stored(t, w);
#pragma GCC unroll 8
            for (int g = 0; g < 4; ++g) present[p][g] = vdotq_s32(present[p][g], w[g], x);
          }
        }
      }
      const size_t at = (size_t{panel / 2} * groups + group) * 32;
#pragma GCC unroll 8
      for (int p = 0; p < 2; ++p) {
#pragma GCC unroll 8
        for (int g = 0; g < 4; ++g) {
          f[p][g] = vfmaq_f32(f[p][g], half_floats(m.group_scales + at + 16 * p + 4 * g),
                              vcvtq_f32_s32(sums[p][g]));
          if (!m.has_min) continue;
          f[p][g] = vfmaq_f32(f[p][g], half_floats(m.group_mins + at + 16 * p + 4 * g),
                              vcvtq_f32_s32(present[p][g]));
        }
      }
    }
#pragma GCC unroll 8
    for (uint32_t p = 0; p < 2; ++p) {
#pragma GCC unroll 8
      for (uint32_t g = 0; g < 4; ++g) {
        store_rows(out, (panel + p) * kPanelRows + 4 * g, m.rows, vmulq_n_f32(f[p][g], in.scales[0]));
      }
    }
  }
}

// Adds a group's sums to acc[kTokenTile][16] of f32: terms at the group and the panel's 16 rows.
FILIGREE_INLINE void add_group(const uint16_t* factors, const int32x4_t (*sums)[4], float* acc) {
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kTokenTile; ++i) {
#pragma GCC unroll 8
    for (int g = 0; g < 4; ++g) {
      float* f = acc + i * 16 + 4 * g;
      vst1q_f32(f, vfmaq_f32(vld1q_f32(f), half_floats(factors + 4 * g), vcvtq_f32_s32(sums[i][g])));
    }
  }
}

// One panel's block over up to four tokens. Dot::sum(block, x, tiles, acc): acc[token][quad] += the products of `tiles` tiles, a
// multiple of 4. Tokens that are not there repeat the last one.
template <class Dot, class Cursor>
void multiply(const Matrix& m, const Input& in, const int8_t* block, const int8_t* stored, uint32_t panel,
              size_t t0, size_t tiles, uint32_t token, void* sums) {
  const int8_t* x[kTokenTile];
#pragma GCC unroll 8
  for (uint32_t i = 0; i < kTokenTile; ++i)
    x[i] = in.i8 + std::min(token + i, in.tokens - 1) * in.stride + 4 * t0;
  int32x4_t acc[kTokenTile][4];
  if constexpr (Cursor::kGroupTiles == 0) {
    int32_t* s = static_cast<int32_t*>(sums);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < kTokenTile; ++i) {
#pragma GCC unroll 8
      for (int g = 0; g < 4; ++g) acc[i][g] = vld1q_s32(s + i * 16 + 4 * g);
    }
    Dot::sum(block, x, tiles, acc);
#pragma GCC unroll 8
    for (uint32_t i = 0; i < kTokenTile; ++i) {
#pragma GCC unroll 8
      for (int g = 0; g < 4; ++g) vst1q_s32(s + i * 16 + 4 * g, acc[i][g]);
    }
  } else {
    const size_t groups = group_count(m), first = t0 / Cursor::kGroupTiles;
    const size_t at = (size_t{panel / 2} * groups + first) * 32 + 16 * (panel % 2);
    float* f = static_cast<float*>(sums);
    for (size_t group = 0; group < tiles / Cursor::kGroupTiles; ++group) {
      for (auto& token_sums : acc) {
        for (auto& a : token_sums) a = vdupq_n_s32(0);
      }
      Dot::sum(block + group * Cursor::kGroupTiles * 64, x, Cursor::kGroupTiles, acc);
      add_group(m.group_scales + at + group * 32, acc, f);
      if (m.has_min) {
#pragma GCC unroll 8
        for (uint32_t i = 0; i < kTokenTile; ++i) {
          const int32_t all =
              in.group_sums[std::min(token + i, in.tokens - 1) * in.group_stride + first + group];
          for (auto& a : acc[i]) a = vdupq_n_s32(Cursor::kDense ? all : 0);
        }
        if (!Cursor::kDense) Dot::sum(stored + group * Cursor::kGroupTiles * 64, x, Cursor::kGroupTiles, acc);
        add_group(m.group_mins + at + group * 32, acc, f);
      }
      for (auto& p : x) p += Cursor::kGroupTiles * 4;
    }
  }
}

template <class Dot, class Cursor>
void batch(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, size_t out_stride,
           std::byte* workspace) {
  const size_t tiles = tile_count(m);
  int8_t* block = reinterpret_cast<int8_t*>(workspace);
  int8_t* stored = block + 2 * kBlockBytes;
  uint32_t* sums =
      reinterpret_cast<uint32_t*>(stored + 2 * kBlockBytes);  // int32 for i8, f32 for i4: [panel][token][16]
  for (uint32_t first = 0; first < in.tokens; first += kTokenChunk) {
    const uint32_t tokens = std::min(kTokenChunk, in.tokens - first);
    for (uint32_t panel = begin; panel < end; panel += 2) {
      const uint32_t panels = std::min(2u, end - panel);
      Cursor cursors[2] = {Cursor(m, panel), Cursor(m, panel + panels - 1)};
      std::memset(sums, 0, 2 * kTokenChunk * 16 * sizeof(uint32_t));
      for (size_t t0 = 0; t0 < tiles; t0 += kBlockTiles) {
        const size_t n = std::min<size_t>(kBlockTiles, tiles - t0), whole = (n + 3) / 4 * 4;
        for (uint32_t p = 0; p < panels; ++p) {
          int8_t* to = block + p * kBlockBytes;
          int8x16_t w[4];
          for (size_t t = 0; t < n; ++t) {
            cursors[p].tile(t0 + t, w);
#pragma GCC unroll 8
            for (int g = 0; g < 4; ++g) vst1q_s8(to + t * 64 + 16 * g, w[g]);
            if constexpr (Cursor::kGroupTiles != 0 && !Cursor::kDense) {
              if (!m.has_min) continue;
              cursors[p].stored(t0 + t, w);
#pragma GCC unroll 8
              for (int g = 0; g < 4; ++g) vst1q_s8(stored + p * kBlockBytes + t * 64 + 16 * g, w[g]);
            }
          }
          std::memset(to + n * 64, 0, (whole - n) * 64);
          Dot::arrange(to, whole);
          if (Cursor::kGroupTiles != 0 && !Cursor::kDense && m.has_min)
            Dot::arrange(stored + p * kBlockBytes, whole);
          for (uint32_t i = 0; i < tokens; i += kTokenTile) {
            multiply<Dot, Cursor>(m, in, to, stored + p * kBlockBytes, panel + p, t0, whole, first + i,
                                  sums + (p * kTokenChunk + i) * 16);
          }
        }
      }
      for (uint32_t i = 0; i < tokens; ++i) {
        float* to = out + (first + i) * out_stride;
        for (uint32_t p = 0; p < panels; ++p) {
#pragma GCC unroll 8
          for (uint32_t g = 0; g < 4; ++g) {
            const uint32x4_t s = vld1q_u32(sums + (p * kTokenChunk + i) * 16 + 4 * g);
            const uint32_t row = (panel + p) * kPanelRows + 4 * g;
            if (Cursor::kGroupTiles == 0) {
              store_i8(m, row, vreinterpretq_s32_u32(s), in.scales[first + i], to);
            } else {
              store_rows(to, row, m.rows, vmulq_n_f32(vreinterpretq_f32_u32(s), in.scales[first + i]));
            }
          }
        }
      }
    }
  }
}

constexpr size_t kIntegerWorkspace = 4 * kBlockBytes + 2 * size_t{kTokenChunk} * 16 * sizeof(uint32_t);

}  // namespace
}  // namespace filigree::linear

#define FILIGREE_BATCH_KERNEL(name, Dot, ...)                                                              \
  void name(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, size_t out_stride, \
            std::byte* workspace) {                                                                        \
    batch<Dot, __VA_ARGS__>(m, in, begin, end, out, out_stride, workspace);                                \
  }
#define FILIGREE_BATCH_KERNELS(prefix, Dot)                                                    \
  size_t prefix##_integer_workspace(const MatrixSpec&, uint32_t) { return kIntegerWorkspace; } \
  FILIGREE_BATCH_KERNEL(prefix##_i8_dense, Dot, DenseI8)                                       \
  FILIGREE_BATCH_KERNEL(prefix##_i8_bitmask, Dot, BitmaskI8)                                   \
  FILIGREE_BATCH_KERNEL(prefix##_i4g32_dense, Dot, DenseI4<8>)                                 \
  FILIGREE_BATCH_KERNEL(prefix##_i4g32_bitmask, Dot, BitmaskI4<8>)                             \
  FILIGREE_BATCH_KERNEL(prefix##_i4g128_dense, Dot, DenseI4<32>)                               \
  FILIGREE_BATCH_KERNEL(prefix##_i4g128_bitmask, Dot, BitmaskI4<32>)
