#pragma once
// Expanding bitmasks of 16x4 tiles without an expand instruction: two panels at a time, A in the low lane of a register and B in
// the high one. For each element of a group of rows the *place* of its value is computed, counted from the group's first stored
// value; a byte shuffle of 16 loaded values then puts the group in order. Places are ranks inside a row's four columns (a table
// indexed by the row's nibble of mask) plus the values of the rows before it (a multiplication as prefix sum).
#include "kernels/linear/avx2_common.h"

namespace filigree::linear {
namespace {

struct RankTables {
  alignas(32) uint8_t
      rank[4]
          [32];  // [column][nibble of mask, both lanes]: rank among the row's stored; empty has the top bit
  alignas(32) uint8_t count[32];
};
constexpr RankTables make_rank_tables() {
  RankTables t{};
  for (int n = 0; n < 32; ++n) {
    int rank = 0;
    for (int j = 0; j < 4; ++j) {
      const bool stored = (n & 15) >> j & 1;
      t.rank[j][n] = static_cast<uint8_t>(stored ? rank : 0xc0);
      rank += stored;
    }
    t.count[n] = static_cast<uint8_t>(rank);
  }
  return t;
}
constexpr RankTables kRanks = make_rank_tables();

FILIGREE_INLINE __m256i rank_of(int column, __m256i nibbles) {
  return _mm256_shuffle_epi8(_mm256_load_si256(reinterpret_cast<const __m256i*>(kRanks.rank[column])),
                             nibbles);
}
FILIGREE_INLINE __m256i count_of(__m256i nibbles) {
  return _mm256_shuffle_epi8(_mm256_load_si256(reinterpret_cast<const __m256i*>(kRanks.count)), nibbles);
}
// In each group of four bytes: the sum of the bytes before (times 0x01010100).
FILIGREE_INLINE __m256i sums_before(__m256i counts) {
  return _mm256_mullo_epi32(counts, _mm256_set1_epi32(0x01010100));
}

FILIGREE_INLINE void interleave(const __m256i* p, __m256i* out) {
  const __m256i a = _mm256_unpacklo_epi8(p[0], p[1]), b = _mm256_unpackhi_epi8(p[0], p[1]);
  const __m256i c = _mm256_unpacklo_epi8(p[2], p[3]), d = _mm256_unpackhi_epi8(p[2], p[3]);
  out[0] = _mm256_unpacklo_epi16(a, c);
  out[1] = _mm256_unpackhi_epi16(a, c);
  out[2] = _mm256_unpacklo_epi16(b, d);
  out[3] = _mm256_unpackhi_epi16(b, d);
}

// Groups of four rows, one tile: place[g] orders rows 4g..4g+3 of A and B. At most 16 values a group: always fits.
FILIGREE_INLINE void places_of_quads(__m256i nibbles, __m256i* place) {
  const __m256i base = sums_before(count_of(nibbles));
  __m256i p[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) p[j] = _mm256_add_epi8(rank_of(j, nibbles), base);
  interleave(p, place);
}

// Groups of eight rows, two tiles (masks: two words of A, two of B): even[2t + h] orders rows 8h, 8h+2, 8h+4, 8h+6 of tile t, odd
// the rows between. True if some group holds more than 16 values; its places then go up to 31 (see select32).
FILIGREE_INLINE bool places_of_octets(__m256i masks, __m256i* even, __m256i* odd) {
  const __m256i low_nibble = _mm256_set1_epi8(15);
  const __m256i lo = _mm256_and_si256(masks, low_nibble),
                hi = _mm256_and_si256(_mm256_srli_epi16(masks, 4), low_nibble);
  const __m256i count_lo = count_of(lo), count_both = _mm256_add_epi8(count_lo, count_of(hi));
  const __m256i base_even = sums_before(count_both), base_odd = _mm256_add_epi8(base_even, count_lo);
  __m256i p[4], q[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    p[j] = _mm256_add_epi8(rank_of(j, lo), base_even);
    q[j] = _mm256_add_epi8(rank_of(j, hi), base_odd);
  }
  interleave(p, even);
  interleave(q, odd);
  const __m256i ends = _mm256_add_epi8(base_even, count_both);
  return _mm256_movemask_epi8(_mm256_cmpgt_epi8(ends, _mm256_set1_epi8(16))) != 0;
}

// Places 0..31 in two registers of 16 values; empty stays zero.
FILIGREE_INLINE __m256i select32(__m256i first, __m256i second, __m256i place) {
  return _mm256_or_si256(_mm256_shuffle_epi8(first, _mm256_adds_epu8(place, _mm256_set1_epi8(0x70))),
                         _mm256_shuffle_epi8(second, _mm256_sub_epi8(place, _mm256_set1_epi8(16))));
}

// Rows in the order of places_of_octets (even, odd) to rows 8h..8h+3 and 8h+4..8h+7, 32-bit elements.
FILIGREE_INLINE void merge_rows(__m256i even, __m256i odd, __m256i* quads) {
  quads[0] = _mm256_unpacklo_epi32(even, odd);
  quads[1] = _mm256_unpackhi_epi32(even, odd);
}

// Two tiles' masks of a panel that has only one left: the missing tile stores nothing.
struct MaskPair {
  uint64_t word[2];
};
FILIGREE_INLINE MaskPair last_mask(const uint64_t* masks) { return {{*masks, 0}}; }

// Where rows 4g of a tile begin, and the end of the tile.
FILIGREE_INLINE void quad_starts(const uint64_t* mask, const uint8_t*& values, const uint8_t** start) {
  const uint64_t m = *mask;
  start[0] = values;
  start[1] = values + __builtin_popcount(static_cast<uint32_t>(m) & 0xffff);
  start[2] = values + __builtin_popcount(static_cast<uint32_t>(m));
  start[3] = start[2] + __builtin_popcount(static_cast<uint32_t>(m >> 32) & 0xffff);
  values += __builtin_popcountll(m);
}

// Expands `tiles` tiles of two panels: block[tile][quad][A 16 bytes, B 16 bytes], quad g = rows 4g..4g+3 by 4 columns. Decode turns
// loaded values (A's in the low lane) into what is placed; finish treats the result, where empty is still zero.
template <class Decode>
FILIGREE_INLINE void expand_tiles(const uint64_t* masks_a, const uint64_t* masks_b, const uint8_t*& a,
                                  const uint8_t*& b, size_t tiles, uint8_t* block, size_t ahead,
                                  const Decode& decode) {
  const __m256i low_nibble = _mm256_set1_epi8(15);
  for (size_t t = 0; t < tiles; t += 2) {
    const MaskPair pad_a = last_mask(masks_a + t), pad_b = last_mask(masks_b + t);
    const bool last = t + 1 == tiles;
    const uint64_t* ma = last ? pad_a.word : masks_a + t;
    const uint64_t* mb = last ? pad_b.word : masks_b + t;
    const __m256i m = load_lanes(ma, mb);
    const __m256i lo = _mm256_and_si256(m, low_nibble),
                  hi = _mm256_and_si256(_mm256_srli_epi16(m, 4), low_nibble);
    prefetch(a + ahead);
    prefetch(b + ahead);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      __m256i place[4];
      places_of_quads(i == 0 ? _mm256_unpacklo_epi8(lo, hi) : _mm256_unpackhi_epi8(lo, hi), place);
      const uint8_t *from_a[4], *from_b[4];
      quad_starts(ma + i, a, from_a);
      quad_starts(mb + i, b, from_b);
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        decode.put(block + (t + i) * 128 + 32 * g, load_lanes(from_a[g], from_b[g]), place[g]);
      }
    }
  }
}

}  // namespace
}  // namespace filigree::linear
