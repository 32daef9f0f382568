#pragma once
// i4 weights in groups of 32 or 128 columns, dense and bitmask, on 256-bit registers, once for AVX2 and once for AVX-VNNI. A code
// is expanded to the byte u in 0..15 (8, the zero of codes without minimum, where nothing is stored; 0 with a minimum) and
// multiplied unsigned by signed: eight pair sums of 2 * 15 * 127 fit 16 bits. Without minimum 8 times the group's sum of
// activations is taken off; with one, the sum over the stored columns is computed where it is not the group's.
//
// A Dot has: Group<kTiles> that sums up to kTiles tiles of a group, add(tile, w, x), keep(), which has the compiler hold the sum in one
// register from tile to tile, and total().
#include "kernels/linear/avx2_expand.h"

namespace filigree::linear {
namespace {

constexpr uint32_t kTokenTile = 4;
constexpr uint32_t kTokenChunk = 128;
constexpr uint32_t kBlockTiles =
    128;  // a multiple of a group's tiles: 16 KiB of expanded codes of a pair of panels
constexpr size_t kAheadMask = 768;
constexpr size_t kAheadDense = 2048;

// Low lane: low nibbles; high lane: high nibbles.
FILIGREE_INLINE __m256i lane_nibbles(__m256i bytes) {
  return _mm256_and_si256(_mm256_srlv_epi32(bytes, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4)),
                          _mm256_set1_epi8(15));
}

// Without minimum: u, or 8 where nothing is stored (place has the top bit set). x ^ 8 on both sides turns shuffle's zero into 8.
struct PlaceCentered {
  FILIGREE_INLINE void put(uint8_t* to, __m256i bytes, __m256i place) const {
    const __m256i eight = _mm256_set1_epi8(8);
    store256(to, _mm256_xor_si256(_mm256_shuffle_epi8(_mm256_xor_si256(lane_nibbles(bytes), eight), place),
                                  eight));
  }
};

// With a minimum: u and, `stored` bytes further, whether there is one.
struct PlaceWithMin {
  size_t stored;
  FILIGREE_INLINE void put(uint8_t* to, __m256i bytes, __m256i place) const {
    store256(to, _mm256_shuffle_epi8(lane_nibbles(bytes), place));
    store256(to + stored, _mm256_andnot_si256(_mm256_srli_epi16(place, 7), _mm256_set1_epi8(1)));
  }
};

// Dense: nibbles of both panels to the order of expand_tiles, quads of rows, A low and B high.
FILIGREE_INLINE void dense_quads(__m256i bytes, __m256i* quads) {
  const __m256i low_nibble = _mm256_set1_epi8(15);
  const __m256i a = _mm256_and_si256(bytes, low_nibble),
                b = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low_nibble);
  quads[0] = _mm256_permute2x128_si256(a, b, 0x20);
  quads[1] = _mm256_permute2x128_si256(a, b, 0x31);
}

// Four f16 of each panel as the f32 of a quad. groups32: the 32 values of a pair and group.
FILIGREE_INLINE __m256 quad_scales(const uint16_t* groups32, uint32_t quad) {
  const __m128i a = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(groups32 + 4 * quad));
  const __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(groups32 + 16 + 4 * quad));
  return _mm256_cvtph_ps(_mm_unpacklo_epi64(a, b));
}

FILIGREE_INLINE void store_pair(const Matrix& m, uint32_t panel, uint32_t half, __m256 first, __m256 second,
                                float scale, float* out) {
  const __m256 s = _mm256_set1_ps(scale);
  const uint32_t row = panel * kPanelRows + 8 * half;
  store_rows(out, row, m.rows, _mm256_mul_ps(_mm256_permute2f128_ps(first, second, 0x20), s));
  store_rows(out, row + kPanelRows, m.rows, _mm256_mul_ps(_mm256_permute2f128_ps(first, second, 0x31), s));
}

// One token, dense: registers of the pair as they lie in memory (rows 0-7 and 8-15 of A, then of B).
template <class Dot, int kGroupTiles>
void decode_dense(const Matrix& m, const Input& in, uint32_t panel, float* out) {
  const size_t groups = group_count(m);
  const std::byte* w = m.values + size_t{panel / 2} * tile_count(m) * 64;
  const size_t first_scale = size_t{panel / 2} * groups * 32;
  const __m256i low_nibble = _mm256_set1_epi8(15);
  __m256 f[4];
  for (auto& v : f) v = _mm256_setzero_ps();
  for (size_t g = 0; g < groups; ++g) {
    typename Dot::template Group<kGroupTiles> sums[4];
#pragma GCC unroll 8
    for (int t = 0; t < kGroupTiles; ++t, w += 64) {
      const __m256i x = broadcast4(in.i8 + (g * kGroupTiles + t) * 4);
      prefetch(w + kAheadDense);
      const __m256i low = load256(w), high = load256(w + 32);
      sums[0].add(t, _mm256_and_si256(low, low_nibble), x);
      sums[1].add(t, _mm256_and_si256(high, low_nibble), x);
      sums[2].add(t, _mm256_and_si256(_mm256_srli_epi16(low, 4), low_nibble), x);
      sums[3].add(t, _mm256_and_si256(_mm256_srli_epi16(high, 4), low_nibble), x);
    }
    const __m256i over = _mm256_set1_epi32(m.has_min ? 0 : 8 * in.group_sums[g]);
    const size_t at = first_scale + g * 32;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256 s = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[i].total(), over));
      f[i] = _mm256_fmadd_ps(_mm256_cvtph_ps(load128(m.group_scales + at + 8 * i)), s, f[i]);
      if (m.has_min) {
        const __m256 all = _mm256_set1_ps(static_cast<float>(in.group_sums[g]));
        f[i] = _mm256_fmadd_ps(_mm256_cvtph_ps(load128(m.group_mins + at + 8 * i)), all, f[i]);
      }
    }
  }
  const __m256 scale = _mm256_set1_ps(in.scales[0]);
#pragma GCC unroll 8
  for (uint32_t i = 0; i < 4; ++i)
    store_rows(out, panel * kPanelRows + 8 * i, m.rows, _mm256_mul_ps(f[i], scale));
}

// One token, bitmask, no minimum: groups of eight rows as in i8.
template <class Dot, int kGroupTiles>
void decode_bitmask(const Matrix& m, const Input& in, uint32_t panel, float* out) {
  const size_t groups = group_count(m), tiles = tile_count(m);
  const uint64_t* masks_a = reinterpret_cast<const uint64_t*>(m.masks) + panel * tiles;
  const uint64_t* masks_b = masks_a + tiles;
  const uint8_t* a = reinterpret_cast<const uint8_t*>(m.values) + m.offsets[panel / 2];
  const uint8_t* b = a;
  const __m256i eight = _mm256_set1_epi8(8);
  __m256 f[4];
  for (auto& v : f) v = _mm256_setzero_ps();
  for (size_t g = 0; g < groups; ++g) {
    // [even rows, odd rows][half]
    typename Dot::template Group<kGroupTiles> sums[2][2];
#pragma GCC unroll 4
    for (int t = 0; t < kGroupTiles; t += 2) {
      const uint64_t* ma = masks_a + g * kGroupTiles + t;
      const uint64_t* mb = masks_b + g * kGroupTiles + t;
      __m256i even[4], odd[4];
      const bool wide = places_of_octets(load_lanes(ma, mb), even, odd);
      prefetch(a + kAheadMask);
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const __m256i x = broadcast4(in.i8 + (g * kGroupTiles + t + i) * 4);
        const uint8_t* from_a[2] = {a, a + __builtin_popcount(static_cast<uint32_t>(ma[i]))};
        const uint8_t* from_b[2] = {b, b + __builtin_popcount(static_cast<uint32_t>(mb[i]))};
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          const __m256i v = _mm256_xor_si256(lane_nibbles(load_lanes(from_a[h], from_b[h])), eight);
          __m256i e, o;
          if (!wide) [[likely]] {
            e = _mm256_shuffle_epi8(v, even[2 * i + h]);
            o = _mm256_shuffle_epi8(v, odd[2 * i + h]);
          } else {
            const __m256i u =
                _mm256_xor_si256(lane_nibbles(load_lanes(from_a[h] + 16, from_b[h] + 16)), eight);
            e = select32(v, u, even[2 * i + h]);
            o = select32(v, u, odd[2 * i + h]);
          }
          sums[0][h].add(t + i, _mm256_xor_si256(e, eight), x);
          sums[1][h].add(t + i, _mm256_xor_si256(o, eight), x);
        }
        a += __builtin_popcountll(ma[i]);
        b += __builtin_popcountll(mb[i]);
      }
    }
    const __m256i over = _mm256_set1_epi32(8 * in.group_sums[g]);
    const uint16_t* scales = m.group_scales + (size_t{panel / 2} * groups + g) * 32;
#pragma GCC unroll 2
    for (uint32_t h = 0; h < 2; ++h) {
      __m256i quads[2];
      merge_rows(sums[0][h].total(), sums[1][h].total(), quads);
#pragma GCC unroll 2
      for (uint32_t q = 0; q < 2; ++q) {
        const __m256 s = _mm256_cvtepi32_ps(_mm256_sub_epi32(quads[q], over));
        f[2 * h + q] = _mm256_fmadd_ps(quad_scales(scales, 2 * h + q), s, f[2 * h + q]);
      }
    }
  }
  store_pair(m, panel, 0, f[0], f[1], in.scales[0], out);
  store_pair(m, panel, 1, f[2], f[3], in.scales[0], out);
}

// What the groups of a block need besides codes; pointers at the block's first group and this half's rows.
struct GroupTerms {
  const uint16_t* scales;
  const uint16_t* mins;  // null without minimum
  const int32_t* sums;   // activations of the token tile's first token
  size_t sum_stride;
  const uint8_t* stored;  // bitmask with a minimum, beside the codes; else null
};

// acc[TB][16] over a block of whole groups; block[tile][4][32] of which this half has two registers.
template <class Dot, int kGroupTiles, int TB>
void multiply(const uint8_t* block, const uint8_t* x, size_t groups, uint32_t half, const GroupTerms& terms,
              float* acc) {
  for (size_t g = 0; g < groups; ++g) {
    // Runs of eight tiles: only a run's sums need registers, and one that goes through memory costs as much as the rest of a tile.
    const auto sum = [&](const uint8_t* codes, __m256i(*sums)[2]) __attribute__((always_inline)) {
      for (int run = 0; run < kGroupTiles; run += 8) {
        typename Dot::template Group<8> part[TB][2];
#pragma GCC unroll 1
        for (int t = 0; t < 8; ++t) {
          const uint8_t* from = codes + (run + t) * 128;
          const __m256i w0 = load256(from), w1 = load256(from + 32);
          const uint8_t* xt = x + (g * kGroupTiles + run + t) * 4 * kTokenTile;
#pragma GCC unroll 4
          for (int i = 0; i < TB; ++i) {
            const __m256i b = broadcast4(xt + 4 * i);
            part[i][0].add(t, w0, b);
            part[i][1].add(t, w1, b);
            part[i][0].keep();
            part[i][1].keep();
          }
        }
#pragma GCC unroll 4
        for (int i = 0; i < TB; ++i) {
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
            const __m256i total = part[i][h].total();
            sums[i][h] = run == 0 ? total : _mm256_add_epi32(sums[i][h], total);
          }
        }
      }
    };
    __m256i sums[TB][2];
    sum(block + g * kGroupTiles * 128, sums);
    const __m256 s0 = quad_scales(terms.scales + g * 32, 2 * half),
                 s1 = quad_scales(terms.scales + g * 32, 2 * half + 1);
#pragma GCC unroll 4
    for (int i = 0; i < TB; ++i) {
      const __m256i over =
          _mm256_set1_epi32(terms.mins != nullptr ? 0 : 8 * terms.sums[i * terms.sum_stride + g]);
      float* f = acc + i * 16;
      const __m256 v0 = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[i][0], over));
      const __m256 v1 = _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[i][1], over));
      _mm256_storeu_ps(f, _mm256_fmadd_ps(s0, v0, _mm256_loadu_ps(f)));
      _mm256_storeu_ps(f + 8, _mm256_fmadd_ps(s1, v1, _mm256_loadu_ps(f + 8)));
    }
    if (terms.mins == nullptr) continue;
    __m256i present[TB][2];
    if (terms.stored != nullptr) sum(terms.stored + g * kGroupTiles * 128, present);
    const __m256 m0 = quad_scales(terms.mins + g * 32, 2 * half),
                 m1 = quad_scales(terms.mins + g * 32, 2 * half + 1);
#pragma GCC unroll 8
    for (int i = 0; i < TB; ++i) {
      const __m256i all = _mm256_set1_epi32(terms.sums[i * terms.sum_stride + g]);
      float* f = acc + i * 16;
      const __m256 v0 = _mm256_cvtepi32_ps(terms.stored != nullptr ? present[i][0] : all);
      const __m256 v1 = _mm256_cvtepi32_ps(terms.stored != nullptr ? present[i][1] : all);
      _mm256_storeu_ps(f, _mm256_fmadd_ps(m0, v0, _mm256_loadu_ps(f)));
      _mm256_storeu_ps(f + 8, _mm256_fmadd_ps(m1, v1, _mm256_loadu_ps(f + 8)));
    }
  }
}

template <class Dot, int kGroupTiles, bool kDense>
void batch_i4(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, size_t out_stride,
              std::byte* workspace) {
  using Multiply = void (*)(const uint8_t*, const uint8_t*, size_t, uint32_t, const GroupTerms&, float*);
  constexpr Multiply kMultiply[kTokenTile + 1] = {
      nullptr, multiply<Dot, kGroupTiles, 1>, multiply<Dot, kGroupTiles, 2>, multiply<Dot, kGroupTiles, 3>,
      multiply<Dot, kGroupTiles, 4>};
  const size_t tiles = tile_count(m), groups = group_count(m);
  uint8_t* block = reinterpret_cast<uint8_t*>(workspace);
  uint8_t* stored = block + kBlockTiles * 128;
  float* acc = reinterpret_cast<float*>(stored + kBlockTiles * 128);
  uint8_t* arranged = reinterpret_cast<uint8_t*>(acc + 2 * kTokenChunk * 16);
  const uint8_t* values = reinterpret_cast<const uint8_t*>(m.values);
  const uint64_t* masks = reinterpret_cast<const uint64_t*>(m.masks);
  for (uint32_t first = 0; first < in.tokens; first += kTokenChunk) {
    const uint32_t tokens = std::min(kTokenChunk, in.tokens - first);
    // x[tile of tokens][tile of columns][kTokenTile][4]
    for (uint32_t i = 0; i < tokens; ++i) {
      uint8_t* to = arranged + (size_t{i / kTokenTile} * tiles * kTokenTile + i % kTokenTile) * 4;
      for (size_t t = 0; t < tiles; ++t)
        std::memcpy(to + t * 4 * kTokenTile, in.i8 + (first + i) * in.stride + 4 * t, 4);
    }
    for (uint32_t panel = begin; panel < end; panel += 2) {
      const uint8_t* a = kDense ? values + size_t{panel / 2} * tiles * 64 : values + m.offsets[panel / 2];
      const uint8_t* b = a;
      for (uint32_t half = 0; half < 2; ++half) std::memset(acc + half * kTokenChunk * 16, 0, tokens * 64);
      for (size_t t0 = 0; t0 < tiles; t0 += kBlockTiles) {
        const size_t n = std::min<size_t>(kBlockTiles, tiles - t0);
        if (kDense) {
          for (size_t t = 0; t < n; ++t, a += 64) {
            __m256i quads[4];
            prefetch(a + kAheadDense);
            dense_quads(load256(a), quads);
            dense_quads(load256(a + 32), quads + 2);
            for (int q = 0; q < 4; ++q) store256(block + t * 128 + 32 * q, quads[q]);
          }
        } else if (m.has_min) {
          const PlaceWithMin place{kBlockTiles * 128};
          expand_tiles(masks + panel * tiles + t0, masks + (panel + 1) * tiles + t0, a, b, n, block,
                       kAheadMask, place);
        } else {
          expand_tiles(masks + panel * tiles + t0, masks + (panel + 1) * tiles + t0, a, b, n, block,
                       kAheadMask, PlaceCentered());
        }
        const size_t g0 = t0 / kGroupTiles, scale = (size_t{panel / 2} * groups + g0) * 32;
        for (uint32_t half = 0; half < 2; ++half) {
          for (uint32_t i = 0; i < tokens; i += kTokenTile) {
            const GroupTerms terms{m.group_scales + scale, m.has_min ? m.group_mins + scale : nullptr,
                                   in.group_sums + (first + i) * in.group_stride + g0, in.group_stride,
                                   m.has_min && !kDense ? stored + 64 * half : nullptr};
            kMultiply[std::min(kTokenTile, tokens - i)](
                block + 64 * half, arranged + (i * tiles + t0 * kTokenTile) * 4, n / kGroupTiles, half, terms,
                acc + (half * kTokenChunk + i) * 16);
          }
        }
      }
      for (uint32_t i = 0; i < tokens; ++i) {
        for (uint32_t half = 0; half < 2; ++half) {
          const float* f = acc + (half * kTokenChunk + i) * 16;
          store_pair(m, panel, half, _mm256_loadu_ps(f), _mm256_loadu_ps(f + 8), in.scales[first + i],
                     out + (first + i) * out_stride);
        }
      }
    }
  }
}

size_t i4_workspace(const MatrixSpec& m, uint32_t tokens) {
  const uint32_t chunk = (std::min(tokens, kTokenChunk) + kTokenTile - 1) / kTokenTile * kTokenTile;
  return 2 * kBlockTiles * 128 + 2 * size_t{kTokenChunk} * 16 * sizeof(float) +
         align64(size_t{chunk} * padded_cols(m));
}

template <class Dot, int kGroupTiles>
void decode_i4(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, size_t out_stride,
               std::byte* workspace) {
  if (m.layout == Layout::bitmask && m.has_min) {
    batch_i4<Dot, kGroupTiles, false>(m, in, begin, end, out, out_stride, workspace);
    return;
  }
  for (uint32_t panel = begin; panel < end; panel += 2) {
    if (m.layout == Layout::dense) {
      decode_dense<Dot, kGroupTiles>(m, in, panel, out);
    } else {
      decode_bitmask<Dot, kGroupTiles>(m, in, panel, out);
    }
  }
}

template <class Dot, int kGroupTiles>
void run_i4(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, size_t out_stride,
            std::byte* workspace) {
  if (m.layout == Layout::dense) {
    batch_i4<Dot, kGroupTiles, true>(m, in, begin, end, out, out_stride, workspace);
  } else {
    batch_i4<Dot, kGroupTiles, false>(m, in, begin, end, out, out_stride, workspace);
  }
}

}  // namespace
}  // namespace filigree::linear

#define FILIGREE_I4_KERNEL(name, call)                                                                     \
  void name(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, size_t out_stride, \
            std::byte* workspace) {                                                                        \
    call(m, in, begin, end, out, out_stride, workspace);                                                   \
  }
#define FILIGREE_I4_KERNELS(prefix, Dot)                                                                 \
  size_t prefix##_i4_workspace(const MatrixSpec& m, uint32_t tokens) { return i4_workspace(m, tokens); } \
  FILIGREE_I4_KERNEL(prefix##_i4g32_decode, (decode_i4<Dot, 8>))                                         \
  FILIGREE_I4_KERNEL(prefix##_i4g128_decode, (decode_i4<Dot, 32>))                                       \
  FILIGREE_I4_KERNEL(prefix##_i4g32_batch, (run_i4<Dot, 8>))                                             \
  FILIGREE_I4_KERNEL(prefix##_i4g128_batch, (run_i4<Dot, 32>))
