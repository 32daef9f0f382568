// i4 weights by tdpbssd, expanded to signed bytes (u - 8, or u with a minimum). The exact sums of each group leave the tiles for the sums
// in f32, in the order of linear.h; those of a group are converted while the next one is multiplied.
#include "kernels/linear/amx_tiles.h"
#include "kernels/linear/avx512_i4_tiles.h"

namespace filigree::linear {

// avx512vnni_i4.cc; for what tiles do not serve.
void avx512vnni_i4_bitmask_chunked(const Matrix&, const Input&, uint32_t, uint32_t, float*, size_t,
                                   std::byte*);
size_t avx512vnni_i4_chunk_workspace(const MatrixSpec&, uint32_t);

namespace {

constexpr size_t kChunkTiles = kChunkSteps * kLoadBytes / 4, kPanelBytes = kChunkTiles * 64;
constexpr size_t row_bytes(const MatrixSpec& m) { return group_size(m.format) == 32 ? 32 : kLoadBytes; }

// Tiles [first, first + count) of both panels of a pair, to [2][kPanelBytes].
template <Layout kLayout, bool kMin>
void expand(PairStream<1, kLayout, kMin>& stream, size_t first, size_t count, std::byte* to) {
  const __m512i bias = kMin ? _mm512_setzero_si512() : _mm512_set1_epi8(8);
  order_memory();
  for (size_t i = 0; i < count; ++i, to += 64) {
    __m512i w[2], present[2];
    stream.prefetch_masks(first + i);
    stream.next(0, first + i, w, present);
    _mm512_store_si512(to, _mm512_sub_epi8(w[0], bias));
    _mm512_store_si512(to + kPanelBytes, _mm512_sub_epi8(w[1], bias));
  }
  order_memory();
}

// f += what group g of a pair of panels and of a pair of token blocks gives; both [block][panel][token][row].
template <bool kMin>
void add_group(const Matrix& m, const Input& in, uint32_t pair, uint32_t first_token, size_t g,
               const std::byte* sums, std::byte* f) {
  for (uint32_t panel = 0; panel < 2; ++panel) {
    const size_t s = scales_at(m, 2 * pair + panel, g);
    const __m512 scale = widen(m.group_scales + s),
                 min = kMin ? widen(m.group_mins + s) : _mm512_setzero_ps();
    for (uint32_t block = 0; block < 2; ++block) {
      const uint32_t token = first_token + block * kBlockTokens;
      for (uint32_t r = 0; r < kBlockTokens && token + r < in.tokens; ++r) {
        const size_t at = (2 * block + panel) * kTileBytes + r * 64;
        __m512 total = g == 0 ? _mm512_setzero_ps() : _mm512_load_ps(reinterpret_cast<float*>(f + at));
        total = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(_mm512_load_si512(sums + at)), total);
        if constexpr (kMin) {
          const int32_t sum = in.group_sums[(token + r) * in.group_stride + g];
          total = _mm512_fmadd_ps(min, _mm512_set1_ps(static_cast<float>(sum)), total);
        }
        _mm512_store_ps(reinterpret_cast<float*>(f + at), total);
      }
    }
  }
}

// Groups [first, first + count) of one pair of panels by one pair of token blocks. w: the panels' tiles of them.
template <size_t kRowBytes, bool kTwo, bool kMin>
void multiply_groups(const Matrix& m, const Input& in, const Tokens& x, uint32_t pair, uint32_t block,
                     size_t first, size_t count, const std::byte* w, std::byte* sums, std::byte* f) {
  const size_t tiles = group_size(m.format) / 4, steps = tiles * 4 / kRowBytes;
  const size_t x_step[2] = {x.rows(2 * block) * kRowBytes, x.rows(2 * block + 1) * kRowBytes};
  for (size_t i = 0; i < count; ++i) {
    const size_t k = (first + i) * steps;
    const std::byte* const from[2] = {x.at(2 * block, k), x.at(2 * block + 1, k)};
    const std::byte* const at[2] = {w + i * tiles * 64, w + kPanelBytes + i * tiles * 64};
    zero_accumulators<kTwo>();
    multiply_tiles<SignedBytes<kRowBytes>, kTwo>(from, x_step, at, 16 * kRowBytes, steps, 0);
    store_accumulators<kTwo>(sums + i % 2 * kAccumulatorBytes);
    if (i > 0)
      add_group<kMin>(m, in, pair, block * kTokenPair, first + i - 1, sums + (i - 1) % 2 * kAccumulatorBytes,
                      f);
  }
  add_group<kMin>(m, in, pair, block * kTokenPair, first + count - 1,
                  sums + (count - 1) % 2 * kAccumulatorBytes, f);
}

// Pairs [first, first + pairs) of panels by all tokens, a chunk of K at a time.
template <size_t kRowBytes, Layout kLayout, bool kMin>
void run_pairs(const Matrix& m, const Input& in, const Tokens& x, uint32_t first, uint32_t pairs, float* out,
               size_t out_stride, std::byte* workspace) {
  const uint32_t blocks = token_pairs(in.tokens);
  std::byte* const sums = workspace + group_buffer_bytes(in.tokens);
  std::byte* const saved = sums + 2 * kAccumulatorBytes;
  const size_t group_tiles = group_size(m.format) / 4, chunk = kChunkTiles / group_tiles,
               groups = group_count(m);
  PairStream<1, kLayout, kMin> streams[kGroupPairs];
  for (uint32_t p = 0; p < pairs; ++p) streams[p] = PairStream<1, kLayout, kMin>(m, PanelSet{first + p, 1});
  for (size_t g = 0; g < groups; g += chunk) {
    const size_t count = groups - g < chunk ? groups - g : chunk;
    for (uint32_t p = 0; p < pairs; ++p)
      expand<kLayout, kMin>(streams[p], g * group_tiles, count * group_tiles,
                            workspace + p * 2 * kPanelBytes);
    for (uint32_t block = 0; block < blocks; ++block) {
      const bool two = in.tokens > block * kTokenPair + kBlockTokens;
      for (uint32_t p = 0; p < pairs; ++p) {
        const auto multiply =
            two ? multiply_groups<kRowBytes, true, kMin> : multiply_groups<kRowBytes, false, kMin>;
        multiply(m, in, x, first + p, block, g, count, workspace + p * 2 * kPanelBytes, sums,
                 saved + (block * pairs + p) * kAccumulatorBytes);
      }
    }
  }
  for (uint32_t block = 0; block < blocks; ++block) {
    for (uint32_t p = 0; p < pairs; ++p) {
      for_sums(saved + (block * pairs + p) * kAccumulatorBytes, in.tokens, PanelSet{2 * (first + p), 1},
               block * kTokenPair, [&](uint32_t panel, uint32_t token, __m512i f) {
                 _mm512_mask_storeu_ps(
                     out + token * out_stride + panel * kPanelRows, row_mask(m, panel),
                     _mm512_mul_ps(_mm512_castsi512_ps(f), _mm512_set1_ps(in.scales[token])));
               });
    }
  }
}

template <Layout kLayout, bool kMin>
void run(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, size_t out_stride,
         std::byte* workspace) {
  if (begin >= end || in.tokens == 0) return;
  const Tokens x = pack_tokens(m, in.i8, in.stride, in.tokens, row_bytes(m), workspace);
  std::byte* const rest = workspace + tokens_bytes(m, in.tokens, x.row_bytes);
  configure(x);
  const uint32_t pairs_end = (end + 1) / 2, group = group_pairs(in.tokens);
  for (uint32_t pair = begin / 2; pair < pairs_end; pair += group) {
    const uint32_t count = pairs_end - pair < group ? pairs_end - pair : group;
    const auto pairs =
        x.row_bytes == 32 ? run_pairs<32, kLayout, kMin> : run_pairs<kLoadBytes, kLayout, kMin>;
    pairs(m, in, x, pair, count, out, out_stride, rest);
  }
  _tile_release();
}

}  // namespace

size_t amx_i4_workspace(const MatrixSpec& m, uint32_t tokens) {
  const size_t chunked = avx512vnni_i4_chunk_workspace(m, tokens);
  const size_t tiles = amx_workspace(m, tokens, row_bytes(m)) + 2 * kAccumulatorBytes;
  return m.has_min && m.layout == Layout::bitmask ? chunked : tiles;
}

void amx_i4_dense(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                  size_t out_stride, std::byte* workspace) {
  m.has_min ? run<Layout::dense, true>(m, in, begin, end, out, out_stride, workspace)
            : run<Layout::dense, false>(m, in, begin, end, out, out_stride, workspace);
}
void amx_i4_bitmask(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                    size_t out_stride, std::byte* workspace) {
  // A minimum adds the sum of the activations at the stored columns, which takes a second product.
  if (m.has_min) return avx512vnni_i4_bitmask_chunked(m, in, begin, end, out, out_stride, workspace);
  m.layout == Layout::pairs ? run<Layout::pairs, false>(m, in, begin, end, out, out_stride, workspace)
                            : run<Layout::bitmask, false>(m, in, begin, end, out, out_stride, workspace);
}

}  // namespace filigree::linear
