#pragma once

#include <algorithm>
#include <vector>

#include "cuda/plan.h"

// The packing of pack.h on the host, from the same functions: what the tests compare the device with, and what they can check
// without one.

namespace filigree::cuda {

struct HostRowLanes {
  RowLanes view;
  std::vector<uint8_t> values, counts;
  std::vector<uint32_t> distances, offsets;
};

// Always with offsets, no fixed stride. group: i4.
template <class Source>
HostRowLanes host_pack_row_lanes(const Source& source, uint32_t unit_cols, uint32_t group = 0) {
  HostRowLanes out;
  RowLanes& m = out.view;
  m.kind = source.kind, m.rows = source.rows, m.cols = source.cols, m.unit_cols = unit_cols;
  m.group = group;
  out.counts.resize(m.units() * kLanes);
  uint32_t chunks = 0;
  for (size_t unit = 0; unit < m.units(); ++unit) {
    out.offsets.push_back(chunks);
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      const uint32_t n = count_chunks(m, source, unit, lane);
      out.counts[unit * kLanes + lane] = static_cast<uint8_t>(n);
      chunks += n;
    }
  }
  out.values.resize(size_t{chunks} * m.chunk_bytes());
  out.distances.resize(m.distance_bytes() ? chunks : 0);
  for (size_t unit = 0; unit < m.units(); ++unit) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      fill_chunks(m, source, unit, lane, &out.counts[unit * kLanes],
                  out.values.data() + size_t{out.offsets[unit]} * m.chunk_bytes(),
                  m.distance_bytes() ? out.distances.data() + out.offsets[unit] : nullptr);
    }
  }
  m.values = out.values.data(), m.distances = out.distances.data();
  m.counts = out.counts.data(), m.offsets = out.offsets.data();
  return out;
}

struct HostTiles {
  TileMatrix view;
  std::vector<uint8_t> data;
  std::vector<uint32_t> offsets;
  bool fits = true;  // 2:4: no four columns hold more than two
};

template <class Source>
HostTiles host_pack_tiles(const Source& source, Tiles tiles) {
  HostTiles out;
  TileMatrix& m = out.view;
  m.kind = source.kind, m.tiles = tiles, m.rows = source.rows, m.cols = source.cols;
  std::vector<uint8_t> chunks(m.blocks() * kLanes);
  if (tiles == Tiles::bitmask) {
    for (size_t block = 0; block < m.blocks(); ++block) {
      for (uint32_t lane = 0; lane < kLanes; ++lane)
        chunks[block * kLanes + lane] = static_cast<uint8_t>(count_lane_chunks(m, source, block, lane));
    }
    TileClass found;
    out.fits = tile_class_for(m.kind, *std::max_element(chunks.begin(), chunks.end()), &found);
    m.lead = found.lead, m.most = found.most;
  }
  out.offsets.push_back(0);
  for (size_t block = 0; block < m.blocks(); ++block) {
    const uint32_t bytes = tiles == Tiles::bitmask ? bitmask_block_bytes(m, &chunks[block * kLanes])
                           : tiles == Tiles::dense ? kDenseBlockBytes
                                                   : two_four_block_bytes(m.kind);
    m.most_bytes = std::max(m.most_bytes, bytes);
    out.offsets.push_back(out.offsets.back() + bytes / 16);
  }
  out.data.resize(size_t{out.offsets.back()} * 16);
  for (size_t block = 0; block < m.blocks(); ++block) {
    uint8_t* to = out.data.data() + size_t{out.offsets[block]} * 16;
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      if (tiles == Tiles::bitmask) fill_bitmask_lane(m, source, block, lane, &chunks[block * kLanes], to);
      if (tiles == Tiles::dense) fill_dense_lane(m, source, block, lane, to);
      for (uint32_t step = 0; tiles == Tiles::two_four && step < 8; ++step) {
        uint32_t meta;
        out.fits &= fill_two_four_lane(m, source, block, step, lane, to + step * 512 + lane * 16, &meta);
        const bool bf16 = m.kind == Values::bf16;
        if (!bf16 || lane % 4 / 2 == step % 2)
          reinterpret_cast<uint32_t*>(to + 8 * 512 + (bf16 ? step / 2 : step) * 128)[lane] = meta;
      }
    }
  }
  m.data = out.data.data(), m.offsets = out.offsets.data();
  return out;
}

}  // namespace filigree::cuda
