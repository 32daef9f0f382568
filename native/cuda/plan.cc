#include "cuda/plan.h"

#include <algorithm>

#include "cuda/plan_table.h"

namespace filigree::cuda {
namespace {

// Warps of a block and stages of a warp that tiles.cu is compiled for, by class.
struct TileLaunch {
  uint32_t warps, stages;
};

std::vector<TileLaunch> tile_launches(const TileMatrix& m) {
  const bool bf16 = m.kind == Values::bf16;
  if (m.tiles == Tiles::dense) return {{8, 2}};
  if (m.tiles == Tiles::two_four) return {{16, 2}, {8, 4}};
  if (m.most == kTileClasses[bf16 ? 0 : 1][0].most)
    return bf16 ? std::vector<TileLaunch>{{16, 1}, {12, 1}} : std::vector<TileLaunch>{{8, 2}, {10, 1}};
  if (m.most == kTileClasses[bf16 ? 0 : 1][1].most)
    return bf16 ? std::vector<TileLaunch>{{12, 1}, {8, 2}} : std::vector<TileLaunch>{{8, 1}, {6, 2}};
  return bf16 ? std::vector<TileLaunch>{{8, 1}} : std::vector<TileLaunch>{{4, 1}};
}

uint32_t block_row_bytes(const TileShape& m) { return m.block_cols() * (m.kind == Values::bf16 ? 2 : 1); }

// In blocks that one warp multiplies: its longest run, and what joining the slices costs. Weighed by measurements on an H200
// (docs/gpu.md): a 2:4 block is multiplied in less than half the time of a bitmask block, so the join weighs more beside it.
double estimate(const TileMatrix& m, uint32_t tokens, const TilePlan& p) {
  const uint32_t rounds = ceil_div(m.row_tiles(), p.blocks_per_slice * p.warps);
  const double alone =
      m.kind == Values::i8 && p.stages == 1 ? 1.1 : 1.0;  // nothing in flight while a block is spread
  const double join = m.tiles == Tiles::two_four ? 0.05 : 0.02;
  return rounds * p.slice_blocks * alone + join * tokens * (p.slices - 1);
}

}  // namespace

uint32_t unit_cols_for(uint32_t cols, uint32_t warps) { return round_up(ceil_div(cols, warps), 8u); }

uint32_t row_lanes_warps(uint32_t rows, uint32_t cols, const DeviceLimits& device) {
  // Few row groups: one large block a multiprocessor has more loads in flight than two of which the second often is missing.
  return ceil_div(rows, kLanes) <= device.multiprocessors && cols >= 1024 ? 32 : 16;
}

RowLanesPlan plan_row_lanes(const RowLanesShape& m, uint32_t tokens, bool i8_input,
                            const DeviceLimits& device) {
  RowLanesPlan p;
  p.tokens = tokens <= 2 ? tokens : 4;
  p.warps = row_lanes_warps(m.rows, m.cols, device);
  if (p.warps == 32) {
    p.in_flight = p.tokens == 4 ? 3 : 4;
    p.per_sm = 1;
  } else if (i8_input) {
    p.in_flight = 4, p.per_sm = 3;
  } else {
    p.in_flight = 3, p.per_sm = p.tokens == 4 ? 2 : 3;
  }
  p.wide = p.tokens == 1 && !i8_input;
  return p;
}

uint32_t tile_shared_bytes(const TileMatrix& m, const TilePlan& p) {
  const uint32_t windows = m.tiles == Tiles::bitmask ? m.most * values_per_chunk(m.kind) * 128 : 0;
  const uint32_t pad = m.tiles == Tiles::two_four ? 16 : 64;
  const uint32_t scales = m.kind == Values::i8 ? p.slice_blocks * 4 : 0;
  return p.warps * (windows + p.stages * m.most_bytes) +
         p.token_tiles * 8 * (p.slice_blocks * block_row_bytes(m) + pad + scales);
}

size_t partial_floats(const TileMatrix& m, uint32_t tokens, const TilePlan& plan) {
  return size_t{m.row_tiles()} * 16 * tokens * plan.slices;
}

std::vector<TilePlan> tile_plans(const TileMatrix& m, uint32_t tokens, const DeviceLimits& device) {
  std::vector<TilePlan> plans;
  if (tokens == 0 || tokens > 32) return plans;
  for (const TileLaunch& launch : tile_launches(m)) {
    for (uint32_t slice_blocks = 1; slice_blocks <= std::min(16u, m.block_columns()); ++slice_blocks) {
      TilePlan p;
      p.token_tiles = tokens <= 8 ? 1 : tokens <= 16 ? 2 : 4;
      p.warps = launch.warps, p.stages = launch.stages;
      p.slice_blocks = slice_blocks;
      p.slices = ceil_div(m.block_columns(), slice_blocks);
      p.blocks_per_slice = device.multiprocessors / p.slices;
      p.shared_bytes = tile_shared_bytes(m, p);
      // Barriers and what the driver takes of every block.
      if (p.blocks_per_slice == 0 || p.shared_bytes + 1200 > device.shared_bytes) continue;
      plans.push_back(p);
    }
  }
  std::stable_sort(plans.begin(), plans.end(), [&](const TilePlan& a, const TilePlan& b) {
    return estimate(m, tokens, a) < estimate(m, tokens, b);
  });
  if (device.tuned) device.tuned->prefer(m, tokens, plans);
  return plans;
}

bool tile_class_for(Values kind, uint32_t most, TileClass* found) {
  const TileClass* classes = kTileClasses[kind == Values::bf16 ? 0 : 1];
  for (int i = 0; i < 3; ++i) {
    if (most > classes[i].most) continue;
    *found = classes[i];
    return true;
  }
  return false;
}

}  // namespace filigree::cuda
