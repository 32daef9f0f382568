#pragma once

#include "cuda/codes.h"
#include "cuda/memory.h"
#include "cuda/mma_tiles.h"
#include "cuda/plan.h"
#include "cuda/row_lanes.h"

// Makes the device's layouts on the device, from codes that lie there. Scales are not copied: the view points to the caller's.

namespace filigree::cuda {

struct PackedRowLanes {
  RowLanes view;
  DeviceBuffer values, distances, counts, offsets;
  uint64_t stored_bytes = 0;  // read by one product
};

struct PackedTiles {
  TileMatrix view;
  DeviceBuffer data, offsets;
  uint64_t stored_bytes = 0;
};

// Throw Error: out_of_memory; unsupported where the layout cannot hold the matrix (rows over 2^31, a unit of over 2040 columns).
// group: of i4, columns of a quantization group.
template <class Source>
PackedRowLanes pack_row_lanes(const Source& source, uint32_t unit_cols, uint32_t group);
// two_four: unsupported if some four columns hold more than two weights.
template <class Source>
PackedTiles pack_tiles(const Source& source, Tiles tiles);
// Fraction of weights that are not zero.
template <class Source>
double density_of(const Source& source);
// Whether of every four columns at most two are stored.
template <class Source>
bool is_two_four(const Source& source);
// bf16 [rows][cols]; i8 and i4 multiplied by their scales (i4: one f16 a group of `group` columns, in row-lanes order).
template <class Source>
DeviceBuffer expand_codes(const Source& source, const float* row_scales, const uint16_t* unit_scales,
                          uint32_t group);

}  // namespace filigree::cuda
