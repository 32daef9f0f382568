#pragma once

#include <vector>

#include "cuda/mma_tiles.h"
#include "cuda/row_lanes.h"

// Which shape a launch takes: pure functions of the matrix, the number of tokens and the device, so that every choice is
// tested without one.

namespace filigree::cuda {

// The shape of a launch of the row-lanes kernel.
struct RowLanesPlan {
  uint32_t tokens = 1;  // it is compiled for: 1, 2 or 4
  uint32_t warps = 16;
  uint32_t in_flight = 4;  // chunks a lane
  uint32_t per_sm = 2;     // blocks
  bool wide = false;       // one token's activations as f32 in shared memory
};

// Of the tile kernel: blocks of `warps` warps; each block keeps the activations of slice_blocks block columns in shared memory
// and walks row tiles, of which a warp multiplies one of `parts` of those columns. The parts' sums meet in shared memory, those of
// several slices in a second kernel, both in the order of the columns.
struct TilePlan {
  uint32_t token_tiles = 1;  // of 8 tokens: 1, 2 or 4
  uint32_t warps = 16, stages = 1;
  uint32_t slice_blocks = 1, slices = 1, blocks_per_slice = 1;
  uint32_t parts = 1;  // divides warps
  uint32_t shared_bytes = 0;
};

inline constexpr uint32_t kFewSlices = 6;  // up to so many leave no multiprocessor of an H200 unused
inline constexpr uint32_t kJoinRow =
    80;  // bytes of 16 sums in shared memory, so that a fragment's meet no bank twice

class GpuPlans;

struct DeviceLimits {
  uint32_t multiprocessors = 132;
  uint32_t shared_bytes = 227 << 10;  // that one block may have
  const GpuPlans* tuned = nullptr;    // what was measured on this device, if anything was (plan_table.h)
};

// The most positions of a split of decode attention, a power of two: few where rows are few, so that one sequence fills the device, and
// more where there are blocks enough without. `longest` context, at most kMostDecodeSplits splits.
inline constexpr uint32_t kMostDecodeSplits = 128;
uint32_t decode_split(uint32_t rows, uint32_t kv_heads, uint32_t longest, uint32_t multiprocessors);

// Columns of a unit for so many warps (row_lanes.h).
uint32_t unit_cols_for(uint32_t cols, uint32_t warps);
uint32_t row_lanes_warps(uint32_t rows, uint32_t cols, const DeviceLimits& device);
RowLanesPlan plan_row_lanes(const RowLanesShape& m, uint32_t tokens, bool i8_input,
                            const DeviceLimits& device);

// All that fit the device, best first by what was measured, then by the estimate; empty if none fits.
std::vector<TilePlan> tile_plans(const TileMatrix& m, uint32_t tokens, const DeviceLimits& device);

uint32_t tile_shared_bytes(const TileMatrix& m, uint32_t tokens, const TilePlan& plan);
size_t partial_floats(const TileMatrix& m, uint32_t tokens, const TilePlan& plan);

// The smallest class that holds `most` chunks a lane; false if none does.
bool tile_class_for(Values kind, uint32_t most, TileClass* found);

}  // namespace filigree::cuda
