#pragma once
// The walk over panels that the f32, bf16 and i8 kernels of AVX-512 share. In all three a tile is 64 bytes of weights and four
// bytes of activations: 16 rows x 1, 2 or 4 columns, multiplied by one broadcast. What differs is an Op:
//   take(masks, tile)      mask of a tile;  count(mask) bytes its values occupy
//   expand(mask, at, v, p) the tile whose mask lies at `at` and whose stored values begin at v, of the p-th panel walked together
//   dot(acc, w, x)         acc + w * x, lane r = row r
//   finish(...)            accumulator of (panel, token) -> 16 floats
// Everything here has internal linkage: each instruction set's file compiles its own copy under its own flags.
#include <immintrin.h>

#include "kernels/linear/linear.h"

namespace filigree::linear {
namespace {

// Tokens that the accumulators of four panels leave registers for: 4 * 6 + 4 weights + 1 broadcast = 29 of 32.
constexpr uint32_t kTokenBlock = 6;
// Tokens of a sparse batch that two panels are multiplied with at once, at most, 2 * 12 + 2 weights + 1 broadcast, and the batch
// from which they are: an expanded tile should serve many tokens, and a product wait for none.
constexpr uint32_t kTwoPanelTokens = 12, kTwoPanelBatch = 7;
// As many are multiplied with one panel at once.
constexpr uint32_t kOnePanelTokens = 16;
// Tiles of four panels expanded at a time: half of a 48 KiB L1 when a few tokens use them, a quarter of a 1 MiB L2 for many.
constexpr uint32_t kChunkTilesFew = 96, kChunkTilesMany = 1024, kManyTokens = 33;
constexpr int kPrefetchSparse = 1536, kPrefetchMasks = 1024, kPrefetchDense = 4096;

constexpr uint32_t chunk_tiles(uint32_t tokens) {
  return tokens < kManyTokens ? kChunkTilesFew : kChunkTilesMany;
}

inline __mmask16 row_mask(const Matrix& m, uint32_t panel) {
  const uint32_t rows = m.rows > panel * kPanelRows ? m.rows - panel * kPanelRows : 0;
  return rows >= kPanelRows ? __mmask16{0xFFFF} : static_cast<__mmask16>((1u << rows) - 1);
}

// Activations as rows of dwords, one a tile.
struct Dwords {
  const std::byte* data;
  size_t stride;  // bytes between tokens
};

inline __m512i broadcast(const std::byte* at) {
  int dword;
  __builtin_memcpy(&dword, at, 4);
  return _mm512_set1_epi32(dword);
}

// Panels that are walked together: panel, panel + step, panel + 2 step, ...
struct PanelSet {
  uint32_t panel, step;
  uint32_t operator[](int p) const { return panel + static_cast<uint32_t>(p) * step; }
};

// Where the tiles of P panels come from.
template <class Op, int P, bool kSparse>
struct Stream {
  const std::byte* value[P];
  const std::byte* mask[P];

  Stream() = default;
  Stream(const Matrix& m, PanelSet panels) {
    const size_t tiles = tile_count(m);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const size_t at = panels[p];
      value[p] = kSparse ? m.values + m.offsets[at] : m.values + at * tiles * 64;
      mask[p] = kSparse ? m.masks + at * tiles * Op::kMaskBytes : nullptr;
    }
  }

  // Masks lie apart from the values, a line of them for many tiles: the processor's own prefetcher follows eight streams late.
  __attribute__((always_inline)) void prefetch_masks(size_t tile) const {
    if (!kSparse || tile % (64 / Op::kMaskBytes) != 0) return;
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
      _mm_prefetch(reinterpret_cast<const char*>(mask[p]) + tile * Op::kMaskBytes + kPrefetchMasks,
                   _MM_HINT_T0);
  }

  // The next tile of panel p.
  __attribute__((always_inline)) __m512i next(int p, size_t tile) {
    if constexpr (kSparse) {
      const auto bits = Op::take(mask[p], tile);
      const __m512i w = Op::expand(bits, mask[p] + tile * Op::kMaskBytes, value[p], p);
      value[p] += Op::count(bits);
      _mm_prefetch(reinterpret_cast<const char*>(value[p]) + kPrefetchSparse, _MM_HINT_T0);
      return w;
    } else {
      const std::byte* at = value[p] + tile * 64;
      _mm_prefetch(reinterpret_cast<const char*>(at) + kPrefetchDense, _MM_HINT_T0);
      return _mm512_loadu_si512(at);
    }
  }
};

// GCC keeps an array in registers only where it unrolls every loop over it, which it refuses for bodies as long as the ones
// that finish a sum: those work on a copy.
template <class V, int P, int T>
__attribute__((always_inline)) inline void copy(const V (&from)[P][T], V (&to)[P][T]) {
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) to[p][t] = from[p][t];
  }
}

// Few tokens: every tile goes from memory through a register into all accumulators.
template <class Op, int P, int T, bool kSparse>
void stream_block(const Matrix& m, const Input& in, const Dwords& x, PanelSet panels, uint32_t token,
                  float* out, size_t out_stride) {
  Stream<Op, P, kSparse> stream(m, panels);
  __m512i acc[P][T];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) acc[p][t] = _mm512_setzero_si512();
  }
  // One pointer for four tokens: sixteen would not fit the registers.
  const std::byte* row[(T + 3) / 4];
#pragma GCC unroll 4
  for (int t = 0; t < T; t += 4) row[t / 4] = x.data + (token + static_cast<uint32_t>(t)) * x.stride;
  const size_t tiles = tile_count(m);
  for (size_t k = 0; k < tiles; ++k) {
    stream.prefetch_masks(k);
    __m512i w[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) w[p] = stream.next(p, k);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const __m512i a = broadcast(row[t / 4] + static_cast<size_t>(t % 4) * x.stride);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) acc[p][t] = Op::dot(acc[p][t], w[p], a);
    }
#pragma GCC unroll 4
    for (int t = 0; t < T; t += 4) row[t / 4] += 4;
  }
  __m512i sum[P][T];
  copy(acc, sum);
  for (int p = 0; p < P; ++p) {
    for (int t = 0; t < T; ++t) {
      const uint32_t at = panels[p], token_at = token + static_cast<uint32_t>(t);
      _mm512_mask_storeu_ps(out + token_at * out_stride + at * kPanelRows, row_mask(m, at),
                            Op::finish(sum[p][t], m, in, at, token_at));
    }
  }
}

// Many tokens: T of them over `tiles` tiles that lie expanded in cache, w[p] + k * step. The accumulators come from and go to
// `acc` ([token][P]) between chunks of K; the last chunk finishes.
template <class Op, int P, int T>
void multiply_block(const std::byte* const* w, size_t step, const Dwords& x, uint32_t token,
                    size_t first_tile, size_t tiles, __m512i* saved, bool first, bool prefetch,
                    __m512i (&acc)[P][T]) {
  const std::byte* row[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    row[t] = x.data + (token + static_cast<uint32_t>(t)) * x.stride + 4 * first_tile;
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
      acc[p][t] = first ? _mm512_setzero_si512()
                        : saved[(token + static_cast<uint32_t>(t)) * P + static_cast<uint32_t>(p)];
  }
  const std::byte* base[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) base[p] = w[p];
  const int ahead = prefetch ? kPrefetchDense : 0;
  for (size_t k = 0; k < tiles; ++k) {
    __m512i tile[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      tile[p] = _mm512_loadu_si512(base[p]);
      _mm_prefetch(reinterpret_cast<const char*>(base[p]) + ahead, _MM_HINT_T0);
      base[p] += step;
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      const __m512i a = broadcast(row[t] + 4 * k);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[p][t] = Op::dot(acc[p][t], tile[p], a);
    }
  }
}

struct Chunk {
  const std::byte* const* w;
  size_t step, first_tile, tiles;
  __m512i* saved;
  bool first, last, dense;
};

template <class Op, int P, int T>
void chunk_tokens(const Matrix& m, const Input& in, const Dwords& x, const Chunk& c, PanelSet panels,
                  uint32_t token, float* out, size_t out_stride) {
  __m512i acc[P][T];
  multiply_block<Op, P, T>(c.w, c.step, x, token, c.first_tile, c.tiles, c.saved, c.first,
                           c.dense && token == 0, acc);
  __m512i sum[P][T];
  copy(acc, sum);
  for (int t = 0; t < T; ++t) {
    for (int p = 0; p < P; ++p) {
      const uint32_t at = panels[p], token_at = token + static_cast<uint32_t>(t);
      if (c.last) {
        _mm512_mask_storeu_ps(out + token_at * out_stride + at * kPanelRows, row_mask(m, at),
                              Op::finish(sum[p][t], m, in, at, token_at));
      } else {
        c.saved[token_at * P + static_cast<uint32_t>(p)] = sum[p][t];
      }
    }
  }
}

// Calls body.template operator()<T>(token) for blocks of up to kTokenBlock tokens.
template <class Body>
void for_token_blocks(uint32_t tokens, const Body& body) {
  uint32_t t = 0;
  for (; t + kTokenBlock <= tokens; t += kTokenBlock) body.template operator()<kTokenBlock>(t);
  switch (tokens - t) {
    case 5:
      return body.template operator()<5>(t);
    case 4:
      return body.template operator()<4>(t);
    case 3:
      return body.template operator()<3>(t);
    case 2:
      return body.template operator()<2>(t);
    case 1:
      return body.template operator()<1>(t);
    default:
      return;
  }
}

// Four panels at a time, one from each quarter of the range: so each of the four streams of memory runs on from panel to panel,
// and what is prefetched at a panel's end is the beginning of the stream's next one.
template <class Body>
void for_panel_blocks(uint32_t begin, uint32_t end, const Body& body) {
  const uint32_t quarter = (end - begin) / 4;
  for (uint32_t p = 0; p < quarter; ++p) body.template operator()<4>(PanelSet{begin + p, quarter});
  uint32_t p = begin + 4 * quarter;
  if (p + 2 <= end) body.template operator()<2>(PanelSet{p, 1}), p += 2;
  if (p < end) body.template operator()<1>(PanelSet{p, 1});
}

// Calls body.template operator()<T>(token) for blocks of 6 to 12 tokens, as alike as they can be; tokens: at least 7.
template <class Body>
void for_even_token_blocks(uint32_t tokens, const Body& body) {
  const uint32_t blocks = (tokens + kTwoPanelTokens - 1) / kTwoPanelTokens;
  for (uint32_t b = 0, t = 0; b < blocks; ++b) {
    const uint32_t next = tokens * (b + 1) / blocks;
    switch (next - t) {
      case 12:
        body.template operator()<12>(t);
        break;
      case 11:
        body.template operator()<11>(t);
        break;
      case 10:
        body.template operator()<10>(t);
        break;
      case 9:
        body.template operator()<9>(t);
        break;
      case 8:
        body.template operator()<8>(t);
        break;
      case 7:
        body.template operator()<7>(t);
        break;
      default:
        body.template operator()<6>(t);
    }
    t = next;
  }
}

// A batch: blocks of tokens share what the first left in cache of four panels, or of two or one where a sparse batch is larger.
template <class Op, bool kSparse>
void run_stream(const Matrix& m, const Input& in, const Dwords& x, uint32_t begin, uint32_t end, float* out,
                size_t out_stride) {
  if (kSparse && in.tokens == kOnePanelTokens) {
    for (uint32_t panel = begin; panel < end; ++panel)
      stream_block<Op, 1, kOnePanelTokens, kSparse>(m, in, x, PanelSet{panel, 1}, 0, out, out_stride);
    return;
  }
  if (kSparse && in.tokens >= kTwoPanelBatch) {
    const uint32_t half = (end - begin) / 2;
    const auto block = [&]<int P>(PanelSet panels) {
      for_even_token_blocks(in.tokens, [&]<int T>(uint32_t token) {
        stream_block<Op, P, T, kSparse>(m, in, x, panels, token, out, out_stride);
      });
    };
    for (uint32_t p = 0; p < half; ++p) block.template operator()<2>(PanelSet{begin + p, half});
    if ((end - begin) % 2 != 0) block.template operator()<1>(PanelSet{end - 1, 1});
    return;
  }
  for_panel_blocks(begin, end, [&]<int P>(PanelSet panels) {
    for_token_blocks(in.tokens, [&]<int T>(uint32_t token) {
      stream_block<Op, P, T, kSparse>(m, in, x, panels, token, out, out_stride);
    });
  });
}

constexpr size_t chunked_workspace(uint32_t tokens) {
  return size_t{chunk_tiles(tokens)} * 4 * 64 + size_t{tokens} * 4 * 64;
}

// Larger batches and prefill: a chunk of K of four panels is expanded once and multiplied with every token.
template <class Op, bool kSparse>
void run_chunked(const Matrix& m, const Input& in, const Dwords& x, uint32_t begin, uint32_t end, float* out,
                 size_t out_stride, std::byte* workspace) {
  const size_t tiles = tile_count(m), chunk = chunk_tiles(in.tokens);
  __m512i* saved = reinterpret_cast<__m512i*>(workspace + chunk * 4 * 64);
  for_panel_blocks(begin, end, [&]<int P>(PanelSet panels) {
    Stream<Op, P, kSparse> stream(m, panels);
    for (size_t k = 0; k < tiles; k += chunk) {
      const size_t count = tiles - k < chunk ? tiles - k : chunk;
      const std::byte* w[P];
      if constexpr (kSparse) {
        for (size_t i = 0; i < count; ++i) {
#pragma GCC unroll 8
          for (int p = 0; p < P; ++p)
            _mm512_store_si512(workspace + (i * P + static_cast<size_t>(p)) * 64, stream.next(p, k + i));
        }
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) w[p] = workspace + p * 64;
      } else {
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) w[p] = stream.value[p] + k * 64;
      }
      const Chunk c{w, kSparse ? P * 64u : 64u, k, count, saved, k == 0, k + count == tiles, !kSparse};
      for_token_blocks(in.tokens, [&]<int T>(uint32_t token) {
        chunk_tokens<Op, P, T>(m, in, x, c, panels, token, out, out_stride);
      });
    }
  });
}

}  // namespace
}  // namespace filigree::linear
