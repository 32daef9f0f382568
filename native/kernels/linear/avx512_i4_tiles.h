#pragma once
// Tiles of i4 matrices: two panels share the bytes of a stream, one in the low and one in the high nibbles.
#include "kernels/linear/avx512_tiles.h"

namespace filigree::linear {
namespace {

constexpr size_t kPrefetchGroups = 8, kPrefetchMaskTiles = 256;
constexpr size_t kMaskLineTiles = 8;  // of a cache line of masks; a group is whole lines
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

// Calls body.template operator()<layout, has_min>() for a sparse matrix.
template <class Body>
void for_storage(const Matrix& m, const Body& body) {
  if (m.layout == Layout::pairs) return body.template operator()<Layout::pairs, false>();
  m.has_min ? body.template operator()<Layout::bitmask, true>()
            : body.template operator()<Layout::bitmask, false>();
}

// Tiles of Q pairs of panels; panel 2q is [q][0], 2q + 1 is [q][1].
template <int Q, Layout kLayout, bool kMin>
struct PairStream {
  static constexpr bool kSparse = kLayout != Layout::dense;
  // In a bitmask each panel of a pair has its own mask and its own place among the codes.
  static constexpr bool kApart = kLayout == Layout::bitmask;
  static constexpr int kStreams = kApart ? 2 : 1;
  const std::byte* value[Q][kStreams];
  const std::byte* mask[Q][kStreams];
  size_t tiles = 0;  // of a panel

  PairStream() = default;
  PairStream(const Matrix& m, PanelSet pairs) : tiles(tile_count(m)) {
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const size_t pair = pairs[q];
#pragma GCC unroll 2
      for (int i = 0; i < kStreams; ++i) {
        value[q][i] = kSparse ? m.values + m.offsets[pair] : m.values + pair * tiles * 64;
        mask[q][i] = kSparse ? m.masks + (kStreams * pair + static_cast<size_t>(i)) * tiles * 8 : nullptr;
      }
    }
  }

  // What is read after a pair's masks lies behind them.
  __attribute__((always_inline)) void prefetch_masks(size_t tile) const {
    if (!kSparse || tile % kMaskLineTiles != 0) return;
    const size_t ahead = tile + kPrefetchMaskTiles, at = !kApart || ahead < tiles ? ahead : ahead + tiles;
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 2
      for (int i = 0; i < kStreams; ++i)
        _mm_prefetch(reinterpret_cast<const char*>(mask[q][i]) + 8 * at, _MM_HINT_T0);
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

  // The next tile of both panels of pair q, and the mask bytes (0 or 1) where a minimum needs them. kScaled: the second panel's codes
  // stay in the high nibbles, 16 times what they are; unless the panels are apart, the first one's are then added. That saves a shift,
  // or all there is to do.
  template <bool kScaled = false>
  __attribute__((always_inline)) void next(int q, size_t tile, __m512i (&w)[2], __m512i (&present)[2]) {
    const __m512i low = _mm512_set1_epi8(15);
    const auto shifted = [&](__m512i bytes) { return _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low); };
    if constexpr (kApart) {
      constexpr char kAbsent = kMin ? 0 : 8;
      const __m512i bytes = _mm512_loadu_si512(value[q][1]);
      const __m512i codes[2] = {
          _mm512_and_si512(_mm512_loadu_si512(value[q][0]), low),
          kScaled ? _mm512_and_si512(bytes, _mm512_set1_epi8(static_cast<char>(0xF0))) : shifted(bytes)};
      const __m512i absent[2] = {_mm512_set1_epi8(kAbsent),
                                 _mm512_set1_epi8(static_cast<char>(kScaled ? 16 * kAbsent : kAbsent))};
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const uint64_t bits = mask_of(q, i, tile);
        w[i] = _mm512_mask_expand_epi8(absent[i], bits, codes[i]);
        if (kMin) present[i] = _mm512_maskz_set1_epi8(bits, 1);
        value[q][i] += __builtin_popcountll(bits);
      }
      _mm_prefetch(reinterpret_cast<const char*>(value[q][0]) + kPrefetchCodes, _MM_HINT_T0);
    } else {
      const __m512i bytes = next_bytes(q, tile);
      w[0] = _mm512_and_si512(bytes, low);
      w[1] = kScaled ? bytes : shifted(bytes);
    }
  }

 private:
  __attribute__((always_inline)) uint64_t mask_of(int q, int i, size_t tile) const {
    uint64_t bits;
    __builtin_memcpy(&bits, mask[q][i] + 8 * tile, 8);
    __asm__("" : "+r"(bits));  // one load for the mask register and the count of its bits
    return bits;
  }

  // A tile's bytes as in a dense layout; elements that are not stored have code 8, which stands for zero.
  __attribute__((always_inline)) __m512i next_bytes(int q, size_t tile) {
    if constexpr (kSparse) {
      const uint64_t bits = mask_of(q, 0, tile);
      const __m512i bytes = _mm512_mask_expand_epi8(_mm512_set1_epi8(static_cast<char>(0x88)), bits,
                                                    _mm512_loadu_si512(value[q][0]));
      value[q][0] += __builtin_popcountll(bits);
      _mm_prefetch(reinterpret_cast<const char*>(value[q][0]) + kPrefetchCodes, _MM_HINT_T0);
      return bytes;
    } else {
      const std::byte* at = value[q][0] + tile * 64;
      _mm_prefetch(reinterpret_cast<const char*>(at) + kPrefetchDense, _MM_HINT_T0);
      return _mm512_loadu_si512(at);
    }
  }
};

}  // namespace
}  // namespace filigree::linear
