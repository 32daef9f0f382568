#pragma once

#include "cuda/platform.h"

// The layout of 1 to 4 tokens ("row lanes"): only nonzeros are stored and touched, with their distances from each other.
//
// 32 rows are a row group; a group is cut along K into units of unit_cols columns, a warp's share. In a unit a lane owns one row. A
// lane's nonzeros stand in chunks of 8: 8 values and one u32 of eight 4-bit distances, each from the column before it (the first
// from column -1 of the unit). A distance over 15 takes zero-valued entries on the way. Chunk c of all lanes that still have one
// lies contiguously, lane after lane (jagged), so a warp reads whole lines; every lane has at least kLeadChunks, so that a warp can
// ask for its first lines before it knows any count. A unit begins stride chunks after the one before it, or, where some unit is
// much longer than the others, at offsets[unit].
//
// bf16 (16 bytes a chunk) and i8 (8, stored as code + 128): values and distances in arrays of their own. i4 (two's complement, two a
// byte, the first in the low nibble): 4 bytes of values and their distances side by side, one load.
// Scales: i8 one f32 a row. i4 one f16 a row of a quantization group, [row group][quantization group][32]; no chunk has entries of
// two groups (what is left of it is filled with zeros), so that its sum takes one scale.

namespace filigree::cuda {

struct RowLanesShape {
  Values kind = Values::bf16;
  uint32_t rows = 0, cols = 0;
  uint32_t unit_cols = 0;
  uint32_t group = 0;  // i4: columns of a quantization group, a power of two

  FILIGREE_HD uint32_t row_groups() const { return ceil_div(rows, kLanes); }
  FILIGREE_HD uint32_t units_per_group() const { return ceil_div(cols, unit_cols); }
  FILIGREE_HD size_t units() const { return size_t{row_groups()} * units_per_group(); }
  FILIGREE_HD uint32_t chunk_bytes() const { return kind == Values::bf16 ? 16 : 8; }
  FILIGREE_HD uint32_t distance_bytes() const { return kind == Values::i4 ? 0 : 4; }  // beside them
  FILIGREE_HD uint32_t scale_groups() const { return ceil_div(cols, group); }         // i4
};

struct RowLanes : RowLanesShape {
  uint32_t stride = 0;                  // chunks from unit to unit; 0: see offsets
  const uint8_t* values = nullptr;      // [chunks][chunk_bytes]
  const uint32_t* distances = nullptr;  // [chunks]; not i4
  const uint8_t* counts = nullptr;      // [units][32] chunks of each lane
  const uint32_t* offsets = nullptr;    // [units], with stride 0
  const float* row_scales = nullptr;
  const uint16_t* unit_scales = nullptr;
};

inline constexpr uint32_t kChunk = 8;
inline constexpr uint32_t kMostChunks = 255;
// Chunks that a lane has at least.
inline constexpr uint32_t kLeadChunks = 4;
// Chunks past the last one that may be read, though not used.
inline constexpr uint32_t kChunkSlack = 8 * kLanes;

// Walks the entries of one lane of one unit: entry(distance, code, begins), which begins a chunk, besides where the one before it is
// full, if it is the first of its quantization group.
template <class Source, class Entry>
FILIGREE_HD void each_entry(const RowLanesShape& s, const Source& source, size_t unit, uint32_t lane,
                            Entry entry) {
  const uint32_t group = static_cast<uint32_t>(unit / s.units_per_group());
  const uint32_t first = static_cast<uint32_t>(unit % s.units_per_group()) * s.unit_cols;
  const uint32_t row = group * kLanes + lane;
  uint32_t distance = 0, last_group = ~0u;
  const auto place = [&](uint32_t column, uint32_t step, int32_t code) {
    const uint32_t g = s.kind == Values::i4 ? column / s.group : 0;
    entry(step, code, g != last_group);
    last_group = g;
  };
  for (uint32_t c = 0; c < s.unit_cols; ++c) {
    ++distance;
    const int32_t code = source.code(row, first + c);
    if (code == 0) continue;
    for (; distance > 15; distance -= 15) place(first + c - distance + 15, 15u, 0);
    place(first + c, distance, code);
    distance = 0;
  }
}

template <class Source>
FILIGREE_HD uint32_t count_chunks(const RowLanesShape& s, const Source& source, size_t unit, uint32_t lane) {
  uint32_t entries = 0;
  each_entry(s, source, unit, lane, [&](uint32_t, int32_t, bool begins) {
    entries = (begins ? round_up(entries, kChunk) : entries) + 1;
  });
  const uint32_t chunks = ceil_div(entries, kChunk);
  return chunks < kLeadChunks ? kLeadChunks : chunks;
}

// Place of a lane's chunk among its unit's, given the counts of all 32 lanes.
FILIGREE_HD inline uint32_t chunk_place(const uint8_t* counts, uint32_t lane, uint32_t chunk) {
  uint32_t place = 0;
  for (uint32_t l = 0; l < kLanes; ++l) {
    place += counts[l] < chunk ? counts[l] : chunk;
    place += l < lane && counts[l] > chunk ? 1 : 0;
  }
  return place;
}

// Writes a lane's chunks; values and distances are those of the unit.
template <class Source>
FILIGREE_HD void fill_chunks(const RowLanesShape& s, const Source& source, size_t unit, uint32_t lane,
                             const uint8_t* counts, uint8_t* values, uint32_t* distances) {
  const uint32_t bytes = s.chunk_bytes();
  uint32_t chunk = 0, slot = 0, packed = 0;
  int32_t code[kChunk];
  const auto flush = [&] {
    const uint32_t place = chunk_place(counts, lane, chunk);
    uint8_t* out = values + size_t{place} * bytes;
    for (uint32_t i = slot; i < kChunk; ++i) code[i] = 0;
    for (uint32_t i = 0; i < kChunk; ++i) {
      if (s.kind == Values::bf16) {
        out[2 * i] = static_cast<uint8_t>(code[i] & 255);
        out[2 * i + 1] = static_cast<uint8_t>(code[i] >> 8);
      } else if (s.kind == Values::i8) {
        out[i] = static_cast<uint8_t>(code[i] + 128);
      } else if (i % 2 == 0) {
        out[i / 2] = static_cast<uint8_t>((code[i] & 15) | (code[i + 1] & 15) << 4);
      }
    }
    if (s.kind == Values::i4) {
      for (uint32_t i = 0; i < 4; ++i) out[4 + i] = static_cast<uint8_t>(packed >> (8 * i));
    } else {
      distances[place] = packed;
    }
    packed = 0;
    slot = 0;
    ++chunk;
  };
  each_entry(s, source, unit, lane, [&](uint32_t distance, int32_t value, bool begins) {
    if (begins && slot > 0) flush();
    code[slot] = value;
    packed |= distance << (4 * slot);
    if (++slot == kChunk) flush();
  });
  while (slot > 0 || chunk < counts[lane]) flush();
}

// The codes of one lane of one unit, back into out[unit_cols].
FILIGREE_HD inline void unpack_lane(const RowLanes& m, size_t unit, uint32_t lane, int32_t* out) {
  const uint8_t* counts = m.counts + unit * kLanes;
  const size_t first = m.stride ? unit * m.stride : m.offsets[unit];
  for (uint32_t c = 0; c < m.unit_cols; ++c) out[c] = 0;
  int32_t col = -1;
  for (uint32_t chunk = 0; chunk < counts[lane]; ++chunk) {
    const size_t place = first + chunk_place(counts, lane, chunk);
    const uint8_t* v = m.values + place * m.chunk_bytes();
    for (uint32_t i = 0; i < kChunk; ++i) {
      col += static_cast<int32_t>(m.kind == Values::i4 ? v[4 + i / 2] >> (4 * (i % 2)) & 15
                                                       : m.distances[place] >> (4 * i) & 15);
      int32_t code = m.kind == Values::bf16 ? v[2 * i] | v[2 * i + 1] << 8
                     : m.kind == Values::i8 ? v[i] - 128
                                            : ((v[i / 2] >> (4 * (i % 2)) & 15) ^ 8) - 8;
      if (code != 0) out[col] = code;
    }
  }
}

}  // namespace filigree::cuda
