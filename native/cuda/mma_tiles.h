#pragma once

#include "cuda/platform.h"

// Layouts whose blocks a warp turns into fragments of a tensor-core product (8 to 32 tokens). A block is 16 rows by 256 columns
// (dense and 2:4 of i8: 512) and lies contiguously; blocks are ordered [row tile][block column].
//
// Bitmask. A lane owns the positions of its fragments, 128 in the order in which the products consume them (fragment_place). The
// block holds, in this order:
//   masks   one bit a position, in words so arranged that shifting them by 0 to 2 brings the bits of each fragment register
//           to fixed places (mask_bit): [32 lanes][4 words]
//   lead    chunks 0 .. lead of every lane, [chunk][32 lanes] of 8 bytes
//   tail    the other chunks, lane after lane
// A chunk is 8 bytes of the lane's stored values in order: 4 bf16 or 8 i8. The kernel keeps `most` chunks a lane in registers
// and shared memory; a matrix that needs more has no bitmask layout.
//
// Two of four (2:4, Mishra et al., arXiv 2104.08378). Of every four columns at most two are stored, as mma.sp wants them: per
// step (32 columns bf16, 64 i8) 16 bytes a lane of compressed fragment, then the positions ("metadata"), 2 bits a value.
//
// Dense. The fragments of the bitmask layout with every position stored: the fallback where cuBLASLt is missing.

namespace filigree::cuda {

enum class Tiles : uint32_t { dense = 0, bitmask = 1, two_four = 2 };

constexpr const char* tiles_name(Tiles tiles) {
  return tiles == Tiles::bitmask ? "bitmask" : tiles == Tiles::two_four ? "2:4" : "dense";
}

FILIGREE_HD constexpr uint32_t tile_cols(Values kind, Tiles tiles) {
  return kind == Values::bf16 || tiles == Tiles::bitmask ? 256 : 512;
}

struct TileShape {
  Values kind = Values::bf16;  // bf16 or i8
  Tiles tiles = Tiles::bitmask;
  uint32_t rows = 0, cols = 0;
  uint32_t lead = 0, most = 0;  // bitmask: chunks a lane, see kTileClasses

  FILIGREE_HD uint32_t block_cols() const { return tile_cols(kind, tiles); }
  FILIGREE_HD uint32_t row_tiles() const { return ceil_div(rows, 16u); }
  FILIGREE_HD uint32_t block_columns() const { return ceil_div(cols, block_cols()); }
  FILIGREE_HD size_t blocks() const { return size_t{row_tiles()} * block_columns(); }
};

struct TileMatrix : TileShape {
  const uint8_t* data = nullptr;
  const uint32_t* offsets = nullptr;  // [blocks + 1] in units of 16 bytes
  uint32_t most_bytes = 0;            // of the longest block
  const float* row_scales = nullptr;  // i8, or bf16 that holds i8 codes; null: none
};

// Chunks a lane that kernels are compiled for, by density: up to about 35 %, 55 % and 100 % of positions stored.
struct TileClass {
  uint32_t lead, most;
};
inline constexpr TileClass kTileClasses[2][3] = {{{7, 17}, {13, 24}, {24, 32}}, {{4, 9}, {7, 12}, {12, 16}}};

inline constexpr uint32_t kPositions = 128, kMaskWords = kPositions / 32;  // of a lane of a bitmask block
FILIGREE_HD constexpr uint32_t values_per_chunk(Values kind) { return kind == Values::bf16 ? 4 : 8; }
inline constexpr uint32_t kDenseBlockBytes = 8192;
// 2:4: 512 bytes of values a step, 8 steps; metadata 128 bytes a pair of steps (bf16) or a step (i8).
FILIGREE_HD constexpr uint32_t two_four_block_bytes(Values kind) {
  return 8 * 512 + (kind == Values::bf16 ? 4 : 8) * 128;
}

// Row and column in the block of a lane's position. A thread of a quad holds runs of 8 (bf16) or 16 (i8) consecutive columns,
// so that one 16-byte load of an activation row feeds two products.
FILIGREE_HD inline void fragment_place(Values kind, uint32_t position, uint32_t lane, uint32_t* row,
                                       uint32_t* col) {
  const uint32_t g = lane / 4, t = lane % 4;
  const uint32_t per = kind == Values::bf16 ? 2 : 4;  // values a register
  const uint32_t reg = position / per, i = position % per;
  const uint32_t step = reg / 8, half = reg / 4 % 2, r = reg % 4;
  *row = g + 8 * (r % 2);
  *col = step * 16 * per + t * 4 * per + half * 2 * per + (r / 2) * per + i;
}

// Word and bit of a position's mask bit.
FILIGREE_HD inline void mask_bit(Values kind, uint32_t position, uint32_t* word, uint32_t* bit) {
  if (kind == Values::bf16) {
    const uint32_t pair = position / 2, in = pair % 16;
    *word = pair / 16;
    *bit = in % 8 + 16 * (in / 8) + 8 * (position % 2);
  } else {
    const uint32_t quad = position / 4;
    *word = quad / 8;
    *bit = quad % 8 + 8 * (position % 4);
  }
}

template <class Source>
FILIGREE_HD int32_t code_at(const TileShape& s, const Source& source, size_t block, uint32_t lane,
                            uint32_t position) {
  uint32_t row, col;
  fragment_place(s.kind, position, lane, &row, &col);
  return source.code(static_cast<uint32_t>(block / s.block_columns()) * 16 + row,
                     static_cast<uint32_t>(block % s.block_columns()) * s.block_cols() + col);
}

template <class Source>
FILIGREE_HD uint32_t count_lane_chunks(const TileShape& s, const Source& source, size_t block,
                                       uint32_t lane) {
  uint32_t n = 0;
  for (uint32_t p = 0; p < kPositions; ++p) n += code_at(s, source, block, lane, p) != 0;
  return ceil_div(n, values_per_chunk(s.kind));
}

// Bytes of a bitmask block, given the chunks of its 32 lanes.
FILIGREE_HD inline uint32_t bitmask_block_bytes(const TileShape& s, const uint8_t* chunks) {
  uint32_t tail = 0;
  for (uint32_t l = 0; l < kLanes; ++l) tail += chunks[l] > s.lead ? chunks[l] - s.lead : 0;
  return round_up(kMaskWords * 4 * kLanes + (s.lead * kLanes + tail) * 8, 16u);
}

// Place of a lane's chunk after the masks.
FILIGREE_HD inline uint32_t tile_chunk_place(const TileShape& s, const uint8_t* chunks, uint32_t lane,
                                             uint32_t chunk) {
  if (chunk < s.lead) return chunk * kLanes + lane;
  uint32_t place = s.lead * kLanes + chunk - s.lead;
  for (uint32_t l = 0; l < lane; ++l) place += chunks[l] > s.lead ? chunks[l] - s.lead : 0;
  return place;
}

// Writes a lane's part of a bitmask block.
template <class Source>
FILIGREE_HD void fill_bitmask_lane(const TileShape& s, const Source& source, size_t block, uint32_t lane,
                                   const uint8_t* chunks, uint8_t* out) {
  const uint32_t per = values_per_chunk(s.kind), bytes = 8 / per;
  uint8_t* const values = out + kMaskWords * 4 * kLanes;
  uint32_t mask[kMaskWords] = {}, n = 0;
  const uint32_t room = (chunks[lane] > s.lead ? chunks[lane] : s.lead) * per;
  const auto put = [&](uint32_t i, int32_t code) {
    uint8_t* at = values + size_t{tile_chunk_place(s, chunks, lane, i / per)} * 8 + i % per * bytes;
    at[0] = static_cast<uint8_t>(code & 255);
    if (bytes == 2) at[1] = static_cast<uint8_t>(code >> 8 & 255);
  };
  for (uint32_t p = 0; p < kPositions; ++p) {
    const int32_t code = code_at(s, source, block, lane, p);
    if (code == 0) continue;
    uint32_t word, bit;
    mask_bit(s.kind, p, &word, &bit);
    mask[word] |= 1u << bit;
    put(n++, code);
  }
  for (; n < room; ++n) put(n, 0);
  for (uint32_t w = 0; w < kMaskWords; ++w) reinterpret_cast<uint32_t*>(out)[lane * kMaskWords + w] = mask[w];
}

// A lane's positions of a bitmask block, back into out[kPositions].
FILIGREE_HD inline void unpack_bitmask_lane(const TileShape& s, const uint8_t* block, uint32_t lane,
                                            int32_t* out) {
  const uint32_t per = values_per_chunk(s.kind), bytes = 8 / per;
  const uint32_t* masks = reinterpret_cast<const uint32_t*>(block);
  const auto lane_chunks = [&](uint32_t l) {
    uint32_t n = 0;
    for (uint32_t w = 0; w < kMaskWords; ++w) {
      for (uint32_t m = masks[l * kMaskWords + w]; m != 0; m &= m - 1) ++n;
    }
    return ceil_div(n, per);
  };
  uint32_t tail = 0;
  for (uint32_t l = 0; l < lane; ++l) tail += lane_chunks(l) > s.lead ? lane_chunks(l) - s.lead : 0;
  uint32_t n = 0;
  for (uint32_t p = 0; p < kPositions; ++p) {
    uint32_t word, bit;
    mask_bit(s.kind, p, &word, &bit);
    out[p] = 0;
    if (!(masks[lane * kMaskWords + word] >> bit & 1)) continue;
    const uint32_t chunk = n / per;
    const uint32_t place = chunk < s.lead ? chunk * kLanes + lane : s.lead * kLanes + tail + chunk - s.lead;
    const uint8_t* at = block + kMaskWords * 4 * kLanes + size_t{place} * 8 + n % per * bytes;
    out[p] = bytes == 2 ? at[0] | at[1] << 8 : static_cast<int8_t>(at[0]);
    ++n;
  }
}

template <class Source>
FILIGREE_HD void fill_dense_lane(const TileShape& s, const Source& source, size_t block, uint32_t lane,
                                 uint8_t* out) {
  const uint32_t per = s.kind == Values::bf16 ? 2 : 4;
  for (uint32_t p = 0; p < s.block_cols() / 2; ++p) {
    const int32_t code = code_at(s, source, block, lane, p);
    uint8_t* at = out + (p / (4 * per) * kLanes + lane) * 16 + p % (4 * per) * (4 / per);
    at[0] = static_cast<uint8_t>(code & 255);
    if (per == 2) at[1] = static_cast<uint8_t>(code >> 8 & 255);
  }
}

// One lane's part of a step of a 2:4 block: 16 bytes of values, and its share of the metadata. A lane's registers a0..a3 hold
// compressed columns of row g (a0, a2) and g + 8 (a1, a3). *meta is the word that this lane contributes to the step, or 0.
// False if some four columns hold more than two weights.
template <class Source>
FILIGREE_HD bool fill_two_four_lane(const TileShape& s, const Source& source, size_t block, uint32_t step,
                                    uint32_t lane, uint8_t* values, uint32_t* meta) {
  const uint32_t g = lane / 4, t = lane % 4, per = s.kind == Values::bf16 ? 2 : 4, width = 16 * per;
  const uint32_t row0 = static_cast<uint32_t>(block / s.block_columns()) * 16;
  const uint32_t col0 = static_cast<uint32_t>(block % s.block_columns()) * s.block_cols() + step * width;
  bool fits = true;
  // The two stored of four columns: their places (ascending) and codes.
  const auto pick = [&](uint32_t row, uint32_t four, uint32_t place[2], int32_t code[2]) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < 4; ++i) {
      const int32_t c = source.code(row0 + row, col0 + 4 * four + i);
      if (c == 0) continue;
      if (n < 2) {
        place[n] = i;
        code[n] = c;
      }
      ++n;
    }
    fits = fits && n <= 2;
    if (n == 0) {
      place[0] = 0, place[1] = 1, code[0] = code[1] = 0;
    } else if (n == 1) {  // a zero beside it, in ascending order
      code[1] = 0;
      if (place[0] == 3) {
        place[1] = 3, code[1] = code[0], place[0] = 0, code[0] = 0;
      } else {
        place[1] = 3;
      }
    }
  };
  for (uint32_t r = 0; r < 4; ++r) {
    for (uint32_t i = 0; i < per; ++i) {
      const uint32_t compressed = r / 2 * 4 * per + t * per + i;
      uint32_t place[2];
      int32_t code[2];
      pick(g + 8 * (r % 2), compressed / 2, place, code);
      const int32_t c = code[compressed % 2];
      uint8_t* at = values + r * 4 + i * (4 / per);
      at[0] = static_cast<uint8_t>(c & 255);
      if (per == 2) at[1] = static_cast<uint8_t>(c >> 8 & 255);
    }
  }
  // Metadata words (PTX ISA, "sparse matrix fragments"): bf16, threads 2 * (step % 2) + h of a quad hold columns 16 h to
  // 16 h + 15 of rows g (low half) and g + 8; i8, thread t holds columns 32 (t / 2) .. of row g + 8 (t % 2).
  *meta = 0;
  uint32_t place[2];
  int32_t code[2];
  if (s.kind == Values::bf16) {
    if (t / 2 != step % 2) return fits;
    for (uint32_t row = 0; row < 2; ++row) {
      for (uint32_t four = 0; four < 4; ++four) {
        pick(g + 8 * row, t % 2 * 4 + four, place, code);
        *meta |= (place[0] | place[1] << 2) << (16 * row + 4 * four);
      }
    }
  } else {
    for (uint32_t four = 0; four < 8; ++four) {
      pick(g + 8 * (t % 2), t / 2 * 8 + four, place, code);
      *meta |= (place[0] | place[1] << 2) << (4 * four);
    }
  }
  return fits;
}

}  // namespace filigree::cuda
