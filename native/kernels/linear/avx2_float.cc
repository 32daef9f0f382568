// f32 and bf16 weights on AVX2 with FMA. A cursor per storage yields a tile's weights widened to f32; two drivers use it: decode
// multiplies what the cursor yields in registers, batches let it fill a block of K in the first-level cache, which all tokens
// then share. Every row is one chain of fused multiply-adds in ascending k, so both give the same bits.
#include <array>

#include "kernels/linear/avx2_common.h"

namespace filigree::linear {
namespace {

constexpr uint32_t kTokenTile = 6;  // 12 accumulators, 2 weights and a broadcast fit the 16 registers
constexpr uint32_t kTokenChunk =
    48;  // tokens that share one expansion; their activations stay in the second-level cache
constexpr uint32_t kBlockCols = 256;  // 16 KiB of expanded weights

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

// Cursors: tile(t, w) yields w[column][half] of tile t, the halves being rows 0-7 and 8-15; t ascends by one.
struct DenseF32 {
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

// One token, P panels `apart` from each other together: P * 2 independent chains, one broadcast for all.
template <class Cursor, int P>
void decode_panels(const Matrix& m, const float* x, uint32_t panel, uint32_t apart, float* out) {
  constexpr int kCols = Cursor::kCols;
  const size_t tiles = tile_count(m);
  auto cursors = [&]<size_t... I>(std::index_sequence<I...>) {
    return std::array<Cursor, P>{Cursor(m, panel + static_cast<uint32_t>(I) * apart)...};
  }(std::make_index_sequence<P>());
  __m256 acc[P][2];
  for (auto& a : acc) a[0] = a[1] = _mm256_setzero_ps();
#pragma GCC unroll 2
  for (size_t t = 0; t < tiles; ++t) {
    __m256 b[kCols];
#pragma GCC unroll 2
    for (int c = 0; c < kCols; ++c) b[c] = _mm256_broadcast_ss(x + t * kCols + c);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      __m256 w[kCols][2];
      cursors[p].tile(t, w);
#pragma GCC unroll 2
      for (int c = 0; c < kCols; ++c) {
        acc[p][0] = _mm256_fmadd_ps(w[c][0], b[c], acc[p][0]);
        acc[p][1] = _mm256_fmadd_ps(w[c][1], b[c], acc[p][1]);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    const uint32_t row = (panel + static_cast<uint32_t>(p) * apart) * kPanelRows;
    store_rows(out, row, m.rows, acc[p][0]);
    store_rows(out, row + 8, m.rows, acc[p][1]);
  }
}

template <class Cursor>
void decode(const Matrix& m, const float* x, uint32_t begin, uint32_t end, float* out) {
  // One panel from each half of the range: both streams of memory run on from panel to panel, and so do their prefetches.
  const uint32_t half = (end - begin) / 2;
  for (uint32_t p = 0; p < half; ++p) decode_panels<Cursor, 2>(m, x, begin + p, half, out);
  if ((end - begin) % 2 != 0) decode_panels<Cursor, 1>(m, x, end - 1, 0, out);
}

// acc[TB][16] += block[cols][16] * x[cols][kTokenTile], the first TB tokens of the tile.
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

uint32_t chunk_tokens(uint32_t tokens) {
  return (std::min(tokens, kTokenChunk) + kTokenTile - 1) / kTokenTile * kTokenTile;
}

float element(const float* x, size_t k, const MatrixSpec& m) { return k < m.cols ? x[k] : 0.0f; }
float element(const uint16_t* x, size_t k, const MatrixSpec& m) {
  const uint32_t bits = k < m.cols ? uint32_t{x[k]} << 16 : 0;
  return load_as<float>(&bits);
}

// x[tile of tokens][col][kTokenTile]: one stream for the multiplication, whatever the caller's stride.
template <class X>
void arrange(const MatrixSpec& m, const X* x, size_t stride, uint32_t tokens, float* out) {
  const size_t cols = padded_cols(m);
  for (uint32_t t = 0; t < tokens; ++t) {
    float* to = out + size_t{t / kTokenTile} * cols * kTokenTile + t % kTokenTile;
    for (size_t k = 0; k < cols; ++k) to[k * kTokenTile] = element(x + t * stride, k, m);
  }
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
    arrange(m, x + first * in.stride, in.stride, tokens, arranged);
    for (uint32_t panel = begin; panel < end; ++panel) {
      Cursor cursor(m, panel);
      std::memset(sums, 0, size_t{tokens} * kPanelRows * sizeof(float));
      for (size_t k0 = 0; k0 < cols; k0 += kBlockCols) {
        const size_t n = std::min<size_t>(kBlockCols, cols - k0);
        const float* weights = block;
        if constexpr (std::is_same_v<Cursor, DenseF32>) {
          weights = cursor.w + k0 * kPanelRows;
          if (first == 0) {
            for (size_t i = 0; i < n * kPanelRows; i += 16) prefetch(weights + kBlockCols * kPanelRows + i);
          }
        } else {
          for (size_t k = 0; k < n; k += Cursor::kCols) {
            __m256 w[Cursor::kCols][2];
            cursor.tile((k0 + k) / Cursor::kCols, w);
#pragma GCC unroll 8
            for (int c = 0; c < Cursor::kCols; ++c) {
              _mm256_storeu_ps(block + (k + c) * kPanelRows, w[c][0]);
              _mm256_storeu_ps(block + (k + c) * kPanelRows + 8, w[c][1]);
            }
          }
        }
        for (uint32_t t = 0; t < tokens; t += kTokenTile) {
          kMultiply[std::min(kTokenTile, tokens - t)](weights, arranged + t * cols + k0 * kTokenTile, n,
                                                      sums + t * kPanelRows);
        }
      }
      for (uint32_t t = 0; t < tokens; ++t) {
        float* row = out + (first + t) * out_stride;
        store_rows(row, panel * kPanelRows, m.rows, _mm256_loadu_ps(sums + t * kPanelRows));
        store_rows(row, panel * kPanelRows + 8, m.rows, _mm256_loadu_ps(sums + t * kPanelRows + 8));
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

size_t avx2_float_workspace(const MatrixSpec& m, uint32_t tokens) {
  if (tokens == 1) return align64(size_t{padded_cols(m)} * sizeof(float));
  return (size_t{kBlockCols} * kPanelRows + size_t{kTokenChunk} * kPanelRows +
          size_t{chunk_tokens(tokens)} * padded_cols(m)) *
         sizeof(float);
}

#define FILIGREE_KERNEL(name)                                                           \
  void name(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, \
            [[maybe_unused]] size_t out_stride, [[maybe_unused]] std::byte* workspace)

FILIGREE_KERNEL(avx2_f32_dense_decode) { decode<DenseF32>(m, in.f32, begin, end, out); }
FILIGREE_KERNEL(avx2_f32_bitmask_decode) { decode<BitmaskF32>(m, in.f32, begin, end, out); }
FILIGREE_KERNEL(avx2_bf16_dense_decode) { decode_bf16<DenseBf16>(m, in, begin, end, out, workspace); }
FILIGREE_KERNEL(avx2_bf16_bitmask_decode) { decode_bf16<BitmaskBf16>(m, in, begin, end, out, workspace); }
FILIGREE_KERNEL(avx2_f32_dense) { batch<DenseF32>(m, in.f32, in, begin, end, out, out_stride, workspace); }
FILIGREE_KERNEL(avx2_f32_bitmask) {
  batch<BitmaskF32>(m, in.f32, in, begin, end, out, out_stride, workspace);
}
FILIGREE_KERNEL(avx2_bf16_dense) { batch<DenseBf16>(m, in.bf16, in, begin, end, out, out_stride, workspace); }
FILIGREE_KERNEL(avx2_bf16_bitmask) {
  batch<BitmaskBf16>(m, in.bf16, in, begin, end, out, out_stride, workspace);
}

#undef FILIGREE_KERNEL

}  // namespace filigree::linear
