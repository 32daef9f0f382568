#pragma once
// Tiles of i4 matrices: two panels share the bytes of a stream, one in the low and one in the high nibbles.
#include "kernels/linear/avx512_tiles.h"

namespace filigree::linear {
namespace {

constexpr size_t kPrefetchGroups = 8, kPrefetchMaskTiles = 256;
constexpr int kPrefetchCodes = 2048;

inline __m512 widen(const uint16_t* halves) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
}

// The p-th panel of a set of pairs of panels, and where its scales of a group begin.
inline uint32_t panel_of(PanelSet pairs, int p) { return 2 * pairs[p / 2] + static_cast<uint32_t>(p % 2); }
inline size_t scales_at(const Matrix& m, uint32_t panel, size_t group) {
  return (size_t{panel / 2} * group_count(m) + group) * 2 * kPanelRows + panel % 2 * kPanelRows;
}

// Two pairs at a time, one from each half of the range: see for_panel_blocks.
template <class Body>
void for_pair_blocks(uint32_t begin, uint32_t end, const Body& body) {
  const uint32_t first = begin / 2, pairs = (end + 1) / 2 - first, half = pairs / 2;
  for (uint32_t q = 0; q < half; ++q) body.template operator()<2>(PanelSet{first + q, half});
  if (pairs % 2 != 0) body.template operator()<1>(PanelSet{first + pairs - 1, 1});
}

// Tiles of Q pairs of panels; panel 2q is [q][0], 2q + 1 is [q][1].
template <int Q, bool kSparse, bool kMin>
struct PairStream {
  const std::byte* value[Q][2];
  const std::byte* mask[Q][2];
  size_t tiles = 0;  // of a panel

  PairStream() = default;
  PairStream(const Matrix& m, PanelSet pairs) : tiles(tile_count(m)) {
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const size_t pair = pairs[q];
#pragma GCC unroll 8
      for (int h = 0; h < 2; ++h) {
        value[q][h] = kSparse ? m.values + m.offsets[pair] : m.values + pair * tiles * 64;
        mask[q][h] = kSparse ? m.masks + (2 * pair + static_cast<size_t>(h)) * tiles * 8 : nullptr;
      }
    }
  }

  // A panel's masks are followed by those of the other panel of its pair: what it reads next lies behind them.
  __attribute__((always_inline)) void prefetch_masks(size_t tile) const {
    if (!kSparse || tile % 8 != 0) return;
    const size_t ahead = tile + kPrefetchMaskTiles, at = ahead < tiles ? ahead : ahead + tiles;
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      _mm_prefetch(reinterpret_cast<const char*>(mask[q][0]) + 8 * at, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(mask[q][1]) + 8 * at, _MM_HINT_T0);
    }
  }

  // Scales are one line for a pair and group, too far apart for the processor to foresee.
  __attribute__((always_inline)) static void prefetch_scales(const Matrix& m, PanelSet pairs, size_t group) {
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const size_t at = scales_at(m, 2 * pairs[q], group + kPrefetchGroups);
      _mm_prefetch(reinterpret_cast<const char*>(m.group_scales + at), _MM_HINT_T0);
      if (kMin) _mm_prefetch(reinterpret_cast<const char*>(m.group_mins + at), _MM_HINT_T0);
    }
  }

  // The next tile of both panels of pair q, and the mask bytes (0 or 1) where a minimum needs them. kInPlace: the second panel's codes
  // stay in the high nibbles, 16 times what they are, which saves a shift.
  template <bool kInPlace = false>
  __attribute__((always_inline)) void next(int q, size_t tile, __m512i (&w)[2], __m512i (&present)[2]) {
    constexpr char kAbsent = kMin ? 0 : 8;
    const __m512i low = _mm512_set1_epi8(15), high = _mm512_set1_epi8(static_cast<char>(0xF0));
    const auto second = [&](__m512i bytes) {
      return kInPlace ? _mm512_and_si512(bytes, high) : _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
    };
    if constexpr (kSparse) {
      const __m512i codes[2] = {_mm512_and_si512(_mm512_loadu_si512(value[q][0]), low),
                                second(_mm512_loadu_si512(value[q][1]))};
      const __m512i absent[2] = {_mm512_set1_epi8(kAbsent),
                                 _mm512_set1_epi8(static_cast<char>(kInPlace ? 16 * kAbsent : kAbsent))};
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        uint64_t bits;
        __builtin_memcpy(&bits, mask[q][h] + 8 * tile, 8);
        w[h] = _mm512_mask_expand_epi8(absent[h], bits, codes[h]);
        if (kMin) present[h] = _mm512_maskz_set1_epi8(bits, 1);
        value[q][h] += __builtin_popcountll(bits);
      }
      _mm_prefetch(reinterpret_cast<const char*>(value[q][0]) + kPrefetchCodes, _MM_HINT_T0);
    } else {
      const std::byte* at = value[q][0] + tile * 64;
      _mm_prefetch(reinterpret_cast<const char*>(at) + kPrefetchDense, _MM_HINT_T0);
      const __m512i bytes = _mm512_loadu_si512(at);
      w[0] = _mm512_and_si512(bytes, low);
      w[1] = second(bytes);
    }
  }
};

}  // namespace
}  // namespace filigree::linear
