// f32 and bf16 weights on AVX2 with FMA: float_panels.h.
#include "kernels/linear/avx2_common.h"
#include "kernels/linear/float_panels.h"

namespace filigree::linear {
namespace {

// For a byte of mask: the lane each of 8 elements comes from; the sign bit marks an element that is not stored.
struct PlacesF32 {
  alignas(32) int32_t at[256][8];
};
constexpr PlacesF32 make_places_f32() {
  PlacesF32 t{};
  for (int mask = 0; mask < 256; ++mask) {
    int rank = 0;
    for (int j = 0; j < 8; ++j) t.at[mask][j] = (mask >> j & 1) != 0 ? rank++ : INT32_MIN;
  }
  return t;
}
constexpr PlacesF32 kPlacesF32 = make_places_f32();

// The same for 16-bit elements, as a byte shuffle; 0x80 gives zero.
struct PlacesBf16 {
  alignas(16) uint8_t at[256][16];
};
constexpr PlacesBf16 make_places_bf16() {
  PlacesBf16 t{};
  for (int mask = 0; mask < 256; ++mask) {
    int rank = 0;
    for (int j = 0; j < 8; ++j) {
      const bool stored = (mask >> j & 1) != 0;
      t.at[mask][2 * j] = static_cast<uint8_t>(stored ? 2 * rank : 0x80);
      t.at[mask][2 * j + 1] = static_cast<uint8_t>(stored ? 2 * rank + 1 : 0x80);
      rank += stored;
    }
  }
  return t;
}
constexpr PlacesBf16 kPlacesBf16 = make_places_bf16();

// Cursors: the halves of a tile are rows 0-7 and 8-15.
struct DenseF32 {
  static constexpr bool kInPlace = true;
  static constexpr int kCols = 1;
  static constexpr size_t kAhead = 4096;
  const float* w;
  DenseF32(const Matrix& m, uint32_t panel)
      : w(reinterpret_cast<const float*>(m.values) + size_t{panel} * tile_count(m) * kPanelRows) {}
  FILIGREE_INLINE void tile(size_t t, __m256 (*out)[2]) {
    const float* p = w + t * kPanelRows;
    prefetch(reinterpret_cast<const char*>(p) + kAhead);
    out[0][0] = _mm256_loadu_ps(p);
    out[0][1] = _mm256_loadu_ps(p + 8);
  }
};

FILIGREE_INLINE void widen(__m256i pairs, int half, __m256 (*out)[2]) {
  out[0][half] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
  out[1][half] =
      _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

struct DenseBf16 {
  static constexpr bool kInPlace = false;
  static constexpr int kCols = 2;
  static constexpr size_t kAhead = 4096;
  const uint16_t* w;
  DenseBf16(const Matrix& m, uint32_t panel)
      : w(reinterpret_cast<const uint16_t*>(m.values) + size_t{panel} * tile_count(m) * kPanelRows * 2) {}
  FILIGREE_INLINE void tile(size_t t, __m256 (*out)[2]) {
    const uint16_t* p = w + t * 32;
    prefetch(reinterpret_cast<const char*>(p) + kAhead);
    widen(load256(p), 0, out);
    widen(load256(p + 16), 1, out);
  }
};

struct BitmaskF32 {
  static constexpr bool kInPlace = false;
  static constexpr int kCols = 1;
  static constexpr size_t kAhead = 1536;
  const float* w;
  const uint8_t* masks;
  BitmaskF32(const Matrix& m, uint32_t panel)
      : w(reinterpret_cast<const float*>(m.values + m.offsets[panel])),
        masks(reinterpret_cast<const uint8_t*>(m.masks) + size_t{panel} * tile_count(m) * 2) {}
  FILIGREE_INLINE void tile(size_t t, __m256 (*out)[2]) {
    const uint32_t low = masks[2 * t], high = masks[2 * t + 1];
    prefetch(reinterpret_cast<const char*>(w) + kAhead);
    out[0][0] = place(low);
    w += __builtin_popcount(low);
    out[0][1] = place(high);
    w += __builtin_popcount(high);
  }
  FILIGREE_INLINE __m256 place(uint32_t mask) const {
    const __m256i from = _mm256_load_si256(reinterpret_cast<const __m256i*>(kPlacesF32.at[mask]));
    const __m256 moved = _mm256_permutevar8x32_ps(_mm256_loadu_ps(w), from);
    return _mm256_blendv_ps(moved, _mm256_setzero_ps(), _mm256_castsi256_ps(from));
  }
};

struct BitmaskBf16 {
  static constexpr bool kInPlace = false;
  static constexpr int kCols = 2;
  static constexpr size_t kAhead = 1024;
  const uint16_t* w;
  const uint8_t* masks;
  BitmaskBf16(const Matrix& m, uint32_t panel)
      : w(reinterpret_cast<const uint16_t*>(m.values + m.offsets[panel])),
        masks(reinterpret_cast<const uint8_t*>(m.masks) + size_t{panel} * tile_count(m) * 4) {}
  FILIGREE_INLINE void tile(size_t t, __m256 (*out)[2]) {
    const uint8_t* q = masks + 4 * t;
    prefetch(reinterpret_cast<const char*>(w) + kAhead);
    widen(_mm256_set_m128i(place(w + __builtin_popcount(q[0]), q[1]), place(w, q[0])), 0, out);
    w += __builtin_popcount(load_as<uint16_t>(q));
    widen(_mm256_set_m128i(place(w + __builtin_popcount(q[2]), q[3]), place(w, q[2])), 1, out);
    w += __builtin_popcount(load_as<uint16_t>(q + 2));
  }
  static FILIGREE_INLINE __m128i place(const uint16_t* p, uint32_t mask) {
    return _mm_shuffle_epi8(load128(p),
                            _mm_load_si128(reinterpret_cast<const __m128i*>(kPlacesBf16.at[mask])));
  }
};

constexpr uint32_t kTokenTile = 6;  // 12 accumulators, 2 weights and a broadcast fit the 16 registers

// TB of kTokenTile tokens.
template <int TB>
void multiply(const float* block, const float* x, size_t cols, float* sums) {
  __m256 acc[TB][2];
#pragma GCC unroll 8
  for (int i = 0; i < TB; ++i) {
    acc[i][0] = _mm256_loadu_ps(sums + i * 16);
    acc[i][1] = _mm256_loadu_ps(sums + i * 16 + 8);
  }
  for (size_t k = 0; k < cols; ++k) {
    const __m256 w0 = _mm256_loadu_ps(block + k * 16), w1 = _mm256_loadu_ps(block + k * 16 + 8);
#pragma GCC unroll 6
    for (int i = 0; i < TB; ++i) {
      const __m256 b = _mm256_broadcast_ss(x + k * kTokenTile + i);
      acc[i][0] = _mm256_fmadd_ps(w0, b, acc[i][0]);
      acc[i][1] = _mm256_fmadd_ps(w1, b, acc[i][1]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < TB; ++i) {
    _mm256_storeu_ps(sums + i * 16, acc[i][0]);
    _mm256_storeu_ps(sums + i * 16 + 8, acc[i][1]);
  }
}
using MultiplyFn = void (*)(const float*, const float*, size_t, float*);
constexpr MultiplyFn kMultiply[kTokenTile + 1] = {nullptr,     multiply<1>, multiply<2>, multiply<3>,
                                                  multiply<4>, multiply<5>, multiply<6>};

struct Lanes {
  using Register = __m256;
  static constexpr int kRegisters = 2, kLanes = 8;
  static constexpr uint32_t kTokenTile = linear::kTokenTile, kTokenChunk = 48;
  static FILIGREE_INLINE Register zero() { return _mm256_setzero_ps(); }
  static FILIGREE_INLINE Register load(const float* p) { return _mm256_loadu_ps(p); }
  static FILIGREE_INLINE void store(float* p, Register a) { _mm256_storeu_ps(p, a); }
  static FILIGREE_INLINE Register broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static FILIGREE_INLINE Register fma(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
  static FILIGREE_INLINE void prefetch(const void* p) { linear::prefetch(p); }
  static FILIGREE_INLINE void store_rows(float* out, uint32_t row, uint32_t rows, Register a) {
    linear::store_rows(out, row, rows, a);
  }
  static void multiply(uint32_t count, const float* block, const float* x, size_t cols, float* sums) {
    kMultiply[count](block, x, cols, sums);
  }
};

}  // namespace

FILIGREE_FLOAT_KERNELS(avx2)

}  // namespace filigree::linear
