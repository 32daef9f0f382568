#pragma once
// Products by AMX, whose tile registers hold 16 rows of 64 bytes. 16 consecutive tiles of a panel (linear.h) lie as the instructions want
// their second factor, 16 x (four bytes of each of the panel's 16 rows), so a dense panel is multiplied where it lies and a sparse one
// is expanded once into cache, for all tokens. The first factor is 64 bytes of 16 tokens, copied together so that a load reads 1 KiB in
// a row. Two blocks of 16 tokens by two panels fill the accumulators 0 to 3 and take four loads for four products:
//            weights   6   7
//   tokens 4           0   1
//   tokens 5           2   3
// Whoever calls configure() calls _tile_release() before returning: threads that use no tiles then save and restore none.
#include "kernels/linear/avx512_tiles.h"

namespace filigree::linear {
namespace {

constexpr size_t kTileBytes = 1024, kAccumulatorBytes = 4 * kTileBytes;
constexpr uint32_t kBlockTokens = 16, kTokenPair = 2 * kBlockTokens;
// A step along K is 64 bytes of every token and 16 tiles of a panel; 32 and 8 where a group of i4 is 32 columns.
constexpr size_t kLoadBytes = 64;
// Steps between two spills of the accumulators: two panels of them are 64 KiB, in the second-level cache. In the first one they would be
// too few for what a spill costs.
constexpr size_t kChunkSteps = 32;
// Pairs of panels that share a read of the activations, which are more than a level-2 cache when the tokens are many.
constexpr uint32_t kGroupPairs = 4;

constexpr uint32_t group_pairs(uint32_t tokens) { return tokens > kTokenPair ? kGroupPairs : 1; }
constexpr uint32_t token_pairs(uint32_t tokens) { return (tokens + kTokenPair - 1) / kTokenPair; }
constexpr size_t step_count(const MatrixSpec& m, size_t row_bytes) {
  return (tile_count(m) * size_t{4} + row_bytes - 1) / row_bytes;
}

// The compiler takes neither a tile load for a read of memory nor a configuration for more than eight bytes.
inline void order_memory() { asm volatile("" ::: "memory"); }

// Activations in the order of the loads: [block of 16 tokens][step][token][row_bytes]. A batch of one or two blocks has no rows beyond
// its tokens; in larger ones those of the last block are whatever the workspace held, and so are the sums that nobody reads.
struct Tokens {
  const std::byte* data;
  uint32_t count;
  size_t steps, row_bytes;

  uint32_t rows(uint32_t block) const {
    const uint32_t first = block * kBlockTokens;
    if (count > kTokenPair || count >= first + kBlockTokens) return kBlockTokens;
    return count > first ? count - first : 0;
  }
  const std::byte* at(uint32_t block, size_t step) const {
    return data + (block * kBlockTokens * steps + step * rows(block)) * row_bytes;
  }
};
constexpr size_t tokens_bytes(const MatrixSpec& m, uint32_t tokens, size_t row_bytes) {
  return token_pairs(tokens) * kTokenPair * step_count(m, row_bytes) * row_bytes;
}

// rows: the first token's, `stride` bytes to the next, readable and zero up to whole steps.
inline Tokens pack_tokens(const MatrixSpec& m, const void* rows, size_t stride, uint32_t count,
                          size_t row_bytes, std::byte* to) {
  const Tokens x{to, count, step_count(m, row_bytes), row_bytes};
  const auto lanes = static_cast<__mmask16>((1u << (row_bytes / 4)) - 1);
  for (uint32_t t = 0; t < count; ++t) {
    const uint32_t block = t / kBlockTokens;
    const std::byte* from = static_cast<const std::byte*>(rows) + t * stride;
    std::byte* at = to + (x.at(block, 0) - to) + t % kBlockTokens * row_bytes;
    for (size_t s = 0; s < x.steps; ++s, from += row_bytes, at += x.rows(block) * row_bytes)
      _mm512_mask_storeu_epi32(at, lanes, _mm512_maskz_loadu_epi32(lanes, from));
  }
  order_memory();
  return x;
}

inline void configure(const Tokens& x) {
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } shape;
  const auto set = [&](int tile, size_t rows, size_t row_bytes) {
    shape.rows[tile] = static_cast<uint8_t>(rows);
    shape.row_bytes[tile] = static_cast<uint16_t>(rows == 0 ? 0 : row_bytes);
  };
  for (int i = 0; i < 2; ++i) {
    const uint32_t tokens = x.rows(static_cast<uint32_t>(i));
    set(2 * i, tokens, 64);
    set(2 * i + 1, tokens, 64);
    set(4 + i, tokens, x.row_bytes);
    set(6 + i, x.row_bytes / 4, 64);
  }
  asm volatile("" ::"r"(&shape) : "memory");
  _tile_loadconfig(&shape);
}

template <bool kTwo>
inline void zero_accumulators() {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kTwo) {
    _tile_zero(2);
    _tile_zero(3);
  }
}

// acc: [token block][panel][16 tokens][16 rows], kTwo or only the first block.
template <bool kTwo>
inline void load_accumulators(const std::byte* acc) {
  order_memory();
  _tile_loadd(0, acc, 64);
  _tile_loadd(1, acc + kTileBytes, 64);
  if constexpr (kTwo) {
    _tile_loadd(2, acc + 2 * kTileBytes, 64);
    _tile_loadd(3, acc + 3 * kTileBytes, 64);
  }
}
template <bool kTwo>
inline void store_accumulators(std::byte* acc) {
  _tile_stored(0, acc, 64);
  _tile_stored(1, acc + kTileBytes, 64);
  if constexpr (kTwo) {
    _tile_stored(2, acc + 2 * kTileBytes, 64);
    _tile_stored(3, acc + 3 * kTileBytes, 64);
  }
}

// Sums of products of signed bytes, of which a token has kBytes a step.
template <size_t kBytes>
struct SignedBytes {
  static constexpr size_t kRowBytes = kBytes;
  static void multiply_0() { _tile_dpbssd(0, 4, 6); }
  static void multiply_1() { _tile_dpbssd(1, 4, 7); }
  static void multiply_2() { _tile_dpbssd(2, 5, 6); }
  static void multiply_3() { _tile_dpbssd(3, 5, 7); }
};

// Adds `steps` steps of the blocks of tokens x[0] and, if kTwo, x[1] by the panels w[0] and w[1]. ahead: bytes to prefetch the panels
// by, 0 where they are in cache. Op::multiply_i adds to accumulator i.
template <class Op, bool kTwo>
inline void multiply_tiles(const std::byte* const (&x)[2], const size_t (&x_step)[2],
                           const std::byte* const (&w)[2], size_t w_step, size_t steps, size_t ahead) {
  const std::byte *x0 = x[0], *x1 = x[1], *w0 = w[0], *w1 = w[1];
  const long x_row = static_cast<long>(Op::kRowBytes);
  for (size_t s = 0; s < steps; ++s) {
    if (ahead != 0) {
      for (size_t i = 0; i < kTileBytes; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(w0 + ahead + i), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(w1 + ahead + i), _MM_HINT_T0);
      }
    }
    _tile_loadd(6, w0, 64);
    _tile_loadd(4, x0, x_row);
    Op::multiply_0();
    _tile_loadd(7, w1, 64);
    Op::multiply_1();
    if constexpr (kTwo) {
      _tile_loadd(5, x1, x_row);
      Op::multiply_2();
      Op::multiply_3();
    }
    w0 += w_step;
    w1 += w_step;
    x0 += x_step[0];
    x1 += x_step[1];
  }
}

// Pairs of panels of a range, one from each half of it, so that each stream of memory runs on from panel to panel. Where the panels are
// odd in number the last one is its own partner.
struct PanelPairs {
  uint32_t begin, end;
  uint32_t count() const { return (end - begin + 1) / 2; }
  PanelSet operator[](uint32_t pair) const {
    const uint32_t half = (end - begin) / 2;
    return pair < half ? PanelSet{begin + pair, half} : PanelSet{end - 1, 0};
  }
};

// The weights of two panels as a run of steps, for f32-like and i8 formats: where they lie, or expanded into `buffer`.
template <class Op, bool kSparse>
class PairWeights {
 public:
  PairWeights() = default;
  PairWeights(const Matrix& m, PanelSet panels) : stream_(m, panels) {}

  // at: the two panels' tiles from step `first` on, `steps` steps. buffer: [2][steps][kTileBytes].
  void take(const Matrix& m, size_t first, size_t steps, std::byte* buffer, const std::byte* (&at)[2]) {
    constexpr size_t kTiles = kLoadBytes / 4;
    const size_t begin = first * kTiles, all = tile_count(m), end = begin + steps * kTiles;
    if (!kSparse && end <= all) {
      for (int p = 0; p < 2; ++p) at[p] = stream_.value[p] + begin * 64;
      return;
    }
    order_memory();
    const size_t stop = end < all ? end : all, second = steps * kTileBytes;
    std::byte* to = buffer;
    for (size_t tile = begin; tile < stop; ++tile, to += 64) {
      stream_.prefetch_masks(tile);
      _mm512_store_si512(to, stream_.next(0, tile));
      _mm512_store_si512(to + second, stream_.next(1, tile));
    }
    for (size_t tile = stop; tile < end; ++tile, to += 64) {
      _mm512_store_si512(to, _mm512_setzero_si512());
      _mm512_store_si512(to + second, _mm512_setzero_si512());
    }
    order_memory();
    at[0] = buffer;
    at[1] = buffer + second;
  }

 private:
  Stream<Op, 2, kSparse> stream_;
};

constexpr size_t group_buffer_bytes(uint32_t tokens) {
  return group_pairs(tokens) * 2 * kChunkSteps * kTileBytes;
}
constexpr size_t group_saved_bytes(uint32_t tokens) {
  return size_t{group_pairs(tokens)} * token_pairs(tokens) * kAccumulatorBytes;
}
constexpr size_t amx_workspace(const MatrixSpec& m, uint32_t tokens, size_t row_bytes) {
  return tokens_bytes(m, tokens, row_bytes) + group_buffer_bytes(tokens) + group_saved_bytes(tokens);
}

// Calls finish(panel, token, sums) with the 16 sums of every token.
template <class Finish>
void for_sums(const std::byte* saved, uint32_t tokens, PanelSet panels, uint32_t first_token,
              const Finish& finish) {
  for (uint32_t tile = 0; tile < 4; ++tile) {
    const uint32_t token = first_token + tile / 2 * kBlockTokens;
    for (uint32_t r = 0; r < kBlockTokens && token + r < tokens; ++r)
      finish(panels[static_cast<int>(tile % 2)], token + r,
             _mm512_load_si512(saved + tile * kTileBytes + r * 64));
  }
}

// Pairs [first, first + pairs) of panels by all tokens, a chunk of K at a time.
template <class Op, bool kSparse>
void run_group(const Matrix& m, const Input& in, const Tokens& x, const PanelPairs& all, uint32_t first,
               uint32_t pairs, float* out, size_t out_stride, std::byte* workspace) {
  const uint32_t tokens = x.count, blocks = token_pairs(tokens);
  std::byte* const saved = workspace + group_buffer_bytes(tokens);
  // One set of accumulators stays where it is from chunk to chunk.
  const bool spill = blocks > 1 || pairs > 1;
  const bool whole = !kSparse && !spill && tile_count(m) % (kLoadBytes / 4) == 0;
  const size_t chunk = whole ? x.steps : kChunkSteps;
  PairWeights<Op, kSparse> weights[kGroupPairs];
  for (uint32_t p = 0; p < pairs; ++p) weights[p] = PairWeights<Op, kSparse>(m, all[first + p]);
  for (size_t k = 0; k < x.steps; k += chunk) {
    const size_t steps = x.steps - k < chunk ? x.steps - k : chunk;
    const std::byte* w[kGroupPairs][2];
    for (uint32_t p = 0; p < pairs; ++p)
      weights[p].take(m, k, steps, workspace + p * 2 * kChunkSteps * kTileBytes, w[p]);
    for (uint32_t block = 0; block < blocks; ++block) {
      const std::byte* const from[2] = {x.at(2 * block, k), x.at(2 * block + 1, k)};
      const size_t step[2] = {x.rows(2 * block) * x.row_bytes, x.rows(2 * block + 1) * x.row_bytes};
      const size_t ahead = !kSparse && block == 0 ? kPrefetchDense : 0;
      for (uint32_t p = 0; p < pairs; ++p) {
        std::byte* const acc = saved + (block * pairs + p) * kAccumulatorBytes;
        const auto product = [&]<bool kTwo>() {
          if (k == 0) {
            zero_accumulators<kTwo>();
          } else if (spill) {
            load_accumulators<kTwo>(acc);
          }
          multiply_tiles<Op, kTwo>(from, step, w[p], kTileBytes, steps, ahead);
          if (spill || k + steps == x.steps) store_accumulators<kTwo>(acc);
        };
        tokens > block* kTokenPair + kBlockTokens ? product.template operator()<true>()
                                                  : product.template operator()<false>();
      }
    }
  }
  for (uint32_t block = 0; block < blocks; ++block) {
    for (uint32_t p = 0; p < pairs; ++p) {
      for_sums(saved + (block * pairs + p) * kAccumulatorBytes, tokens, all[first + p], block * kTokenPair,
               [&](uint32_t panel, uint32_t token, __m512i sums) {
                 _mm512_mask_storeu_ps(out + token * out_stride + panel * kPanelRows, row_mask(m, panel),
                                       Op::finish(sums, m, in, panel, token));
               });
    }
  }
}

// rows: the activations as Op's products take them, `stride` bytes to the next token.
template <class Op, bool kSparse>
void run_tiles(const Matrix& m, const Input& in, const void* rows, size_t stride, uint32_t begin,
               uint32_t end, float* out, size_t out_stride, std::byte* workspace) {
  if (begin >= end || in.tokens == 0) return;
  const Tokens x = pack_tokens(m, rows, stride, in.tokens, Op::kRowBytes, workspace);
  std::byte* const rest = workspace + tokens_bytes(m, in.tokens, Op::kRowBytes);
  configure(x);
  const PanelPairs pairs{begin, end};
  const uint32_t group = group_pairs(in.tokens);
  for (uint32_t p = 0; p < pairs.count(); p += group) {
    const uint32_t count = pairs.count() - p < group ? pairs.count() - p : group;
    run_group<Op, kSparse>(m, in, x, pairs, p, count, out, out_stride, rest);
  }
  _tile_release();
}

}  // namespace
}  // namespace filigree::linear
