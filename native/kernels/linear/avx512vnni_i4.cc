// i4 weights by vpdpbusd: the nibbles (0..15) are the unsigned factor, the activations the signed one. Without a minimum a code
// is u - 8, so an accumulator starts a group at -8 * (sum of the group's activations), and an element that is not stored expands
// to 8, which costs nothing: vpexpandb merges. With a minimum it starts at 0 and absent elements are 0; the sum of the
// activations at stored columns is the group's sum (dense) or a second product with the mask's bits (bitmask).
// Where one token or a few are multiplied, the second panel's factor is 16 times its nibble, or the whole byte with the first panel's
// nibble: at the group's end the first panel's sum is taken off, and 16 leaves through the scale, all exactly.
#include "kernels/linear/avx512_i4_tiles.h"

namespace filigree::linear {
namespace {

// f after one group, in the order of linear.h.
template <bool kSparse, bool kMin>
__attribute__((always_inline)) inline __m512 add_group(__m512 f, __m512i acc, __m512i present_sum,
                                                       int32_t sum, __m512 scale, __m512 min) {
  f = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(acc), f);
  if constexpr (kMin) {
    const __m512 s = kSparse ? _mm512_cvtepi32_ps(present_sum) : _mm512_set1_ps(static_cast<float>(sum));
    f = _mm512_fmadd_ps(min, s, f);
  }
  return f;
}

inline void store(__m512 f, const Matrix& m, const Input& in, uint32_t panel, uint32_t token, float* out,
                  size_t out_stride) {
  _mm512_mask_storeu_ps(out + token * out_stride + panel * kPanelRows, row_mask(m, panel),
                        _mm512_mul_ps(f, _mm512_set1_ps(in.scales[token])));
}

// What the accumulators of the panels of a pair start a group at whose activations have this sum.
template <class Stream, bool kMin>
constexpr int32_t start_of(int panel, int32_t sum) {
  return kMin ? 0 : -8 * sum * (panel == 0 ? 1 : Stream::kApart ? 16 : 17);
}
// What the second panel's accumulator holds beside 16 times its sum is the first one's.
template <class Stream>
inline __m512i second_sum(__m512i first, __m512i second) {
  return Stream::kApart ? second : _mm512_sub_epi32(second, first);
}
inline __m512 scale_of(const Matrix& m, uint32_t panel, size_t group) {
  const __m512 scale = widen(m.group_scales + scales_at(m, panel, group));
  // A power of two: the product with 16 times the sum is the same.
  return panel % 2 == 0 ? scale : _mm512_mul_ps(scale, _mm512_set1_ps(1.0f / 16));
}

// One or two tokens straight from memory.
template <int Q, int T, Layout kLayout, bool kMin>
void stream_pairs(const Matrix& m, const Input& in, PanelSet pairs, uint32_t token, float* out,
                  size_t out_stride) {
  constexpr int P = 2 * Q;
  using Stream = PairStream<Q, kLayout, kMin>;
  constexpr bool kSparse = Stream::kSparse;
  Stream stream(m, pairs);
  const size_t groups = group_count(m), group_tiles = group_size(m.format) / 4;
  __m512 f[P][T];
  const int8_t* row[T];
  const int32_t* sums[T];
#pragma GCC unroll 2
  for (int t = 0; t < T; ++t) {
    row[t] = in.i8 + (token + static_cast<uint32_t>(t)) * in.stride;
    sums[t] = in.group_sums + (token + static_cast<uint32_t>(t)) * in.group_stride;
    for (int p = 0; p < P; ++p) f[p][t] = _mm512_setzero_ps();
  }
  for (size_t g = 0; g < groups; ++g) {
    stream.prefetch_scales(m, pairs, g);
    __m512i acc[P][T], present_acc[P][T];
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        acc[p][t] = _mm512_set1_epi32(start_of<Stream, kMin>(p % 2, sums[t][g]));
        present_acc[p][t] = _mm512_setzero_si512();
      }
    }
    for (size_t line = g * group_tiles; line < (g + 1) * group_tiles; line += kMaskLineTiles) {
      stream.prefetch_masks(line);
#pragma GCC unroll 8
      for (size_t k = line; k < line + kMaskLineTiles; ++k) {
        __m512i a[T];
#pragma GCC unroll 2
        for (int t = 0; t < T; ++t) a[t] = broadcast(reinterpret_cast<const std::byte*>(row[t] + 4 * k));
#pragma GCC unroll 2
        for (int q = 0; q < Q; ++q) {
          __m512i w[2], present[2];
          stream.template next<true>(q, k, w, present);
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 2
            for (int t = 0; t < T; ++t) {
              acc[2 * q + h][t] = _mm512_dpbusd_epi32(acc[2 * q + h][t], w[h], a[t]);
              if constexpr (kSparse && kMin)
                present_acc[2 * q + h][t] = _mm512_dpbusd_epi32(present_acc[2 * q + h][t], present[h], a[t]);
            }
          }
        }
      }
    }
    __m512i sum[P][T], present_sum[P][T];
    copy(acc, sum);
    copy(present_acc, present_sum);
    for (int p = 0; p < P; ++p) {
      const __m512 scale = scale_of(m, panel_of(pairs, p), g),
                   min =
                       kMin ? widen(m.group_mins + scales_at(m, panel_of(pairs, p), g)) : _mm512_setzero_ps();
      for (int t = 0; t < T; ++t) {
        const __m512i s = p % 2 == 0 ? sum[p][t] : second_sum<Stream>(sum[p - 1][t], sum[p][t]);
        f[p][t] = add_group<kSparse, kMin>(f[p][t], s, present_sum[p][t], sums[t][g], scale, min);
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int t = 0; t < T; ++t) {
      store(f[p][t], m, in, panel_of(pairs, p), token + static_cast<uint32_t>(t), out, out_stride);
    }
  }
}

// A batch: T tokens by one pair of panels, whose tiles go from memory through registers as for one token. The sums over groups are in
// memory, the registers are the accumulators'.
template <Layout kLayout, int T>
void batch_pair(const Matrix& m, const Input& in, uint32_t pair, uint32_t token, float* out,
                size_t out_stride) {
  const PanelSet pairs{pair, 1};
  using Stream = PairStream<1, kLayout, false>;
  Stream stream(m, pairs);
  const size_t groups = group_count(m), group_tiles = group_size(m.format) / 4;
  __m512 f[2][T];
  for (int t = 0; t < T; ++t) f[0][t] = f[1][t] = _mm512_setzero_ps();
  // One pointer for four tokens: twelve would not fit the registers.
  const int8_t* row[(T + 3) / 4];
#pragma GCC unroll 4
  for (int t = 0; t < T; t += 4) row[t / 4] = in.i8 + (token + static_cast<uint32_t>(t)) * in.stride;
  const int32_t* sums = in.group_sums + token * in.group_stride;
  for (size_t g = 0; g < groups; ++g) {
    stream.prefetch_scales(m, pairs, g);
    __m512i acc[2][T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const int32_t sum = sums[static_cast<size_t>(t) * in.group_stride + g];
      acc[0][t] = _mm512_set1_epi32(start_of<Stream, false>(0, sum));
      acc[1][t] = _mm512_set1_epi32(start_of<Stream, false>(1, sum));
    }
    for (size_t k = g * group_tiles; k < (g + 1) * group_tiles; ++k) {
      stream.prefetch_masks(k);
      __m512i w[2], present[2];
      stream.template next<true>(0, k, w, present);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) {
        const __m512i a = broadcast(
            reinterpret_cast<const std::byte*>(row[t / 4] + static_cast<size_t>(t % 4) * in.stride));
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          acc[h][t] = _mm512_dpbusd_epi32(acc[h][t], w[h], a);
          __asm__("" : "+v"(acc[h][t]));  // one register from tile to tile
        }
      }
#pragma GCC unroll 4
      for (int t = 0; t < T; t += 4) row[t / 4] += 4;
    }
    const __m512 scale[2] = {scale_of(m, 2 * pair, g), scale_of(m, 2 * pair + 1, g)};
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const __m512i second = second_sum<Stream>(acc[0][t], acc[1][t]);
      f[0][t] = _mm512_fmadd_ps(scale[0], _mm512_cvtepi32_ps(acc[0][t]), f[0][t]);
      f[1][t] = _mm512_fmadd_ps(scale[1], _mm512_cvtepi32_ps(second), f[1][t]);
    }
    __asm__ volatile("" : : "r"(&f) : "memory");  // f stays in memory
  }
  for (int h = 0; h < 2; ++h) {
    for (int t = 0; t < T; ++t)
      store(f[h][t], m, in, 2 * pair + static_cast<uint32_t>(h), token + static_cast<uint32_t>(t), out,
            out_stride);
  }
}

template <Layout kLayout, int T>
void batch_pairs(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                 size_t out_stride) {
  for (uint32_t pair = begin / 2; pair < (end + 1) / 2; ++pair)
    batch_pair<kLayout, T>(m, in, pair, 0, out, out_stride);
}

// From three tokens on, without minimum.
template <Layout kLayout>
void run_batch(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
               size_t out_stride) {
  switch (in.tokens) {
    case 3:
      return batch_pairs<kLayout, 3>(m, in, begin, end, out, out_stride);
    case 4:
      return batch_pairs<kLayout, 4>(m, in, begin, end, out, out_stride);
    case 5:
      return batch_pairs<kLayout, 5>(m, in, begin, end, out, out_stride);
    case 6:
      return batch_pairs<kLayout, 6>(m, in, begin, end, out, out_stride);
    default:
      for (uint32_t pair = begin / 2; pair < (end + 1) / 2; ++pair) {
        for_even_token_blocks(in.tokens, [&]<int T>(uint32_t token) {
          batch_pair<kLayout, T>(m, in, pair, token, out, out_stride);
        });
      }
  }
}

// Tiles are expanded to [tile][panel][64], and with a sparse minimum the mask bytes to the same shape behind them.
struct Expanded {
  const std::byte* codes;
  const std::byte* present;
  size_t first_group, groups;
  __m512* saved;  // [token][2 Q]
};

template <int Q, int T, bool kSparse, bool kMin>
void multiply_groups(const Matrix& m, const Input& in, const Expanded& e, PanelSet pairs, uint32_t token,
                     float* out, size_t out_stride) {
  constexpr int P = 2 * Q;
  const size_t all_groups = group_count(m), group_tiles = group_size(m.format) / 4;
  const int8_t* row[T];
#pragma GCC unroll 8
  for (int t = 0; t < T; ++t)
    row[t] = in.i8 + (token + static_cast<uint32_t>(t)) * in.stride + 4 * e.first_group * group_tiles;
  const std::byte* codes = e.codes;
  const std::byte* present = e.present;
  for (size_t i = 0; i < e.groups; ++i) {
    const size_t g = e.first_group + i;
    __m512i acc[P][T];
    int32_t sums[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) {
      sums[t] = in.group_sums[(token + static_cast<uint32_t>(t)) * in.group_stride + g];
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) acc[p][t] = kMin ? _mm512_setzero_si512() : _mm512_set1_epi32(-8 * sums[t]);
    }
    for (size_t k = i * group_tiles; k < (i + 1) * group_tiles; ++k, codes += P * 64) {
      __m512i w[P];
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) w[p] = _mm512_load_si512(codes + p * 64);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const __m512i a = broadcast(reinterpret_cast<const std::byte*>(row[t] + 4 * k));
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p) acc[p][t] = _mm512_dpbusd_epi32(acc[p][t], w[p], a);
      }
    }
    __m512i sum[P][T];
    copy(acc, sum);
    const size_t first_tile = i * group_tiles;
    for (int p = 0; p < P; ++p) {
      const size_t s = scales_at(m, panel_of(pairs, p), g);
      const __m512 scale = widen(m.group_scales + s),
                   min = kMin ? widen(m.group_mins + s) : _mm512_setzero_ps();
      for (int t = 0; t < T; ++t) {
        __m512& f = e.saved[(token + static_cast<uint32_t>(t)) * P + static_cast<uint32_t>(p)];
        __m512i present_sum = _mm512_setzero_si512();
        if constexpr (kSparse && kMin) {
          for (size_t k = first_tile; k < first_tile + group_tiles; ++k) {
            present_sum = _mm512_dpbusd_epi32(
                present_sum, _mm512_load_si512(present + (k * P + static_cast<size_t>(p)) * 64),
                broadcast(reinterpret_cast<const std::byte*>(row[t] + 4 * k)));
          }
        }
        f = add_group<kSparse, kMin>(g == 0 ? _mm512_setzero_ps() : f, sum[p][t], present_sum, sums[t], scale,
                                     min);
        if (g + 1 == all_groups)
          store(f, m, in, panel_of(pairs, p), token + static_cast<uint32_t>(t), out, out_stride);
      }
    }
  }
}

template <Layout kLayout, bool kMin>
void run_pairs_chunked(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                       size_t out_stride, std::byte* workspace) {
  constexpr bool kSparse = kLayout != Layout::dense;
  const size_t group_tiles = group_size(m.format) / 4, groups = group_count(m);
  const size_t chunk = chunk_tiles(in.tokens) / group_tiles, chunk_bytes = chunk * group_tiles * 4 * 64;
  std::byte* present = workspace + chunk_bytes;
  __m512* saved = reinterpret_cast<__m512*>(present + (kSparse && kMin ? chunk_bytes : 0));
  for_pair_blocks(begin, end, [&]<int Q>(PanelSet pairs) {
    PairStream<Q, kLayout, kMin> stream(m, pairs);
    for (size_t g = 0; g < groups; g += chunk) {
      const size_t count = groups - g < chunk ? groups - g : chunk;
      for (size_t i = 0; i < count * group_tiles; ++i) {
#pragma GCC unroll 2
        for (int q = 0; q < Q; ++q) {
          __m512i w[2], here[2];
          stream.next(q, g * group_tiles + i, w, here);
          const size_t at = (i * 2 * Q + 2 * static_cast<size_t>(q)) * 64;
          _mm512_store_si512(workspace + at, w[0]);
          _mm512_store_si512(workspace + at + 64, w[1]);
          if constexpr (kSparse && kMin) {
            _mm512_store_si512(present + at, here[0]);
            _mm512_store_si512(present + at + 64, here[1]);
          }
        }
      }
      const Expanded e{workspace, present, g, count, saved};
      for_token_blocks(in.tokens, [&]<int T>(uint32_t token) {
        multiply_groups<Q, T, kSparse, kMin>(m, in, e, pairs, token, out, out_stride);
      });
    }
  });
}

template <Layout kLayout, bool kMin>
void run_pairs_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                      size_t out_stride) {
  for_pair_blocks(begin, end, [&]<int Q>(PanelSet pairs) {
    uint32_t t = 0;
    for (; t + 2 <= in.tokens; t += 2) stream_pairs<Q, 2, kLayout, kMin>(m, in, pairs, t, out, out_stride);
    if (t < in.tokens) stream_pairs<Q, 1, kLayout, kMin>(m, in, pairs, t, out, out_stride);
  });
}

}  // namespace

size_t avx512vnni_i4_no_workspace(const MatrixSpec&, uint32_t) { return 0; }
size_t avx512vnni_i4_chunk_workspace(const MatrixSpec& m, uint32_t tokens) {
  const size_t present = m.has_min && m.layout == Layout::bitmask ? size_t{chunk_tiles(tokens)} * 4 * 64 : 0;
  return chunked_workspace(tokens) + present;
}

void avx512vnni_i4_dense_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                size_t out_stride, std::byte*) {
  m.has_min ? run_pairs_stream<Layout::dense, true>(m, in, begin, end, out, out_stride)
            : run_pairs_stream<Layout::dense, false>(m, in, begin, end, out, out_stride);
}
// The bitmask kernels serve pairs too.
void avx512vnni_i4_bitmask_stream(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                  size_t out_stride, std::byte*) {
  for_storage(m, [&]<Layout kLayout, bool kMin>() {
    run_pairs_stream<kLayout, kMin>(m, in, begin, end, out, out_stride);
  });
}
void avx512vnni_i4_bitmask_chunked(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                   size_t out_stride, std::byte* workspace) {
  for_storage(m, [&]<Layout kLayout, bool kMin>() {
    run_pairs_chunked<kLayout, kMin>(m, in, begin, end, out, out_stride, workspace);
  });
}
void avx512vnni_i4_bitmask_batch(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                 size_t out_stride, std::byte* workspace) {
  for_storage(m, [&]<Layout kLayout, bool kMin>() {
    // A minimum takes as many accumulators again.
    if constexpr (kMin) {
      run_pairs_chunked<kLayout, kMin>(m, in, begin, end, out, out_stride, workspace);
    } else {
      run_batch<kLayout>(m, in, begin, end, out, out_stride);
    }
  });
}
void avx512vnni_i4_dense_chunked(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
                                 size_t out_stride, std::byte* workspace) {
  m.has_min ? run_pairs_chunked<Layout::dense, true>(m, in, begin, end, out, out_stride, workspace)
            : run_pairs_chunked<Layout::dense, false>(m, in, begin, end, out, out_stride, workspace);
}
}  // namespace filigree::linear
