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
  if (m.tiles == Tiles::dense) return {{8, 2}};
  if (m.tiles == Tiles::two_four) return {{16, 2}, {12, 2}, {8, 2}};
  const bool bf16 = m.kind == Values::bf16;
  const TileClass* classes = kTileClasses[bf16 ? 0 : 1];
  if (m.most == classes[0].most) return {{16, 1}, {12, 1}};
  if (m.most == classes[1].most)
    return bf16 ? std::vector<TileLaunch>{{12, 1}, {8, 2}} : std::vector<TileLaunch>{{12, 1}};
  return {{8, 1}};
}

uint32_t block_row_bytes(const TileShape& m) { return m.block_cols() * (m.kind == Values::bf16 ? 2 : 1); }

// What a product's microseconds are made of, fitted to 1,600 launches on an H200 within 3 to 7 %: `work` and `blocks` for each block
// of the busiest multiprocessor, counted with and without warps that have no tile left; `tokens` again for each 8 tokens, `few` where
// fewer than 16 warps share it; `input` for each KiB of activations; `join`, and `partial` for each million sums, where slices
// meet in a second kernel; `parts` where a block's warps do.
struct Costs {
  double work, blocks, tokens, few, input, join, partial, parts, many_slices;
};
constexpr Costs kBitmaskCosts[2] = {{.037, .104, .009, .032, .015, .415, 2.852, .661, .255},
                                    {.079, .034, .005, .015, .042, .604, 2.854, .935, .030}};
constexpr Costs kTwoFourCosts[2] = {{.048, .085, 0, 0, .034, 2.105, 3.390, .584, -.672},
                                    {.077, .061, .006, .018, .048, 1.311, 2.609, .512, -.366}};

double estimate(const TileMatrix& m, uint32_t tokens, const TilePlan& p) {
  const int kind = m.kind == Values::bf16 ? 0 : 1;
  const Costs& c = m.tiles == Tiles::bitmask ? kBitmaskCosts[kind] : kTwoFourCosts[kind];
  const uint32_t tiles = ceil_div(m.row_tiles(), p.blocks_per_slice);
  const double work = static_cast<double>(ceil_div(tiles, p.warps / p.parts)) *
                      ceil_div(p.slice_blocks, p.parts) * p.warps,
               blocks = static_cast<double>(tiles) * p.slice_blocks, eights = p.token_tiles;
  double t = work * c.work + blocks * (c.blocks + eights * c.tokens) +
             blocks * c.few * (kind == 1 && m.tiles == Tiles::bitmask ? eights : 1) * (16.0 / p.warps - 1) +
             c.input * p.slice_blocks * block_row_bytes(m) * tokens / 1024;
  if (p.slices > 1 || p.parts == 1)
    t += c.join + c.partial * static_cast<double>(partial_floats(m, tokens, p)) * 1e-6;
  return t + (p.parts > 1 ? c.parts : 0) + (p.slices > kFewSlices ? c.many_slices : 0);
}

}  // namespace

uint32_t decode_split(uint32_t rows, uint32_t kv_heads, uint32_t longest, uint32_t multiprocessors) {
  // As many blocks as run at once; a split of more positions than kEnough would leave the others of an uneven batch far behind.
  constexpr uint32_t kFewest = 64, kEnough = 1024;
  uint32_t positions = kFewest;
  const auto splits = [&] { return ceil_div(longest, positions); };
  while (splits() > kMostDecodeSplits ||
         (positions < kEnough && uint64_t{rows} * kv_heads * splits() > uint64_t{4} * multiprocessors))
    positions *= 2;
  return positions;
}

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

uint32_t tile_shared_bytes(const TileMatrix& m, uint32_t tokens, const TilePlan& p) {
  const uint32_t windows = m.tiles == Tiles::bitmask ? m.most * values_per_chunk(m.kind) * 128 : 0;
  const uint32_t pad = m.tiles == Tiles::two_four ? 16 : 64;
  const uint32_t scales = m.kind == Values::i8 ? p.slice_blocks * 4 : 0;
  const uint32_t joined = p.parts > 1 ? ceil_div(m.row_tiles(), p.blocks_per_slice) * p.parts * tokens : 0;
  return p.warps * (windows + p.stages * m.most_bytes) +
         p.token_tiles * 8 * (p.slice_blocks * block_row_bytes(m) + pad + scales) + joined * kJoinRow;
}

size_t partial_floats(const TileMatrix& m, uint32_t tokens, const TilePlan& plan) {
  return size_t{m.row_tiles()} * 16 * tokens * plan.slices;
}

std::vector<TilePlan> tile_plans(const TileMatrix& m, uint32_t tokens, const DeviceLimits& device) {
  std::vector<TilePlan> plans;
  if (tokens == 0 || tokens > 32) return plans;
  for (const TileLaunch& launch : tile_launches(m)) {
    for (uint32_t slices = 1; slices <= m.block_columns(); ++slices) {
      const uint32_t slice_blocks = ceil_div(m.block_columns(), slices);
      if (ceil_div(m.block_columns(), slice_blocks) != slices) continue;
      for (uint32_t parts = 1; parts <= std::min(launch.warps, slice_blocks); ++parts) {
        if (launch.warps % parts != 0) continue;
        TilePlan p;
        p.token_tiles = tokens <= 8 ? 1 : tokens <= 16 ? 2 : 4;
        p.warps = launch.warps, p.stages = launch.stages;
        p.slice_blocks = slice_blocks, p.slices = slices, p.parts = parts;
        p.blocks_per_slice = std::min(device.multiprocessors / slices, m.row_tiles());
        if (p.blocks_per_slice == 0) continue;
        p.shared_bytes = tile_shared_bytes(m, tokens, p);
        if (p.shared_bytes + 1200 > device.shared_bytes)
          continue;  // barriers and what the driver takes of every block
        plans.push_back(p);
      }
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
