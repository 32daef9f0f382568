#include "cuda/attention_plan.h"

#include <algorithm>

#include "cuda/platform.h"

namespace filigree::cuda {
namespace {

// Of a multiprocessor, about.
constexpr uint32_t kBlocksBeside = 2;

uint32_t tile_rows(const AttentionGrid& grid) { return kTileQueries / grid.group; }
uint32_t blocks_beside(const AttentionGrid& grid) { return kBlocksBeside * grid.multiprocessors; }

// Of `unit` positions each, those that some of the rows see.
uint32_t units_seen(const AttentionGrid& grid, uint32_t position, uint32_t rows, uint32_t unit) {
  const uint32_t window = grid.sliding_window,
                 oldest = window > 0 && position >= window ? position + 1 - window : 0;
  return (position + rows - 1) / unit - oldest / unit + 1;
}

}  // namespace

void plan_attention(const std::vector<AttentionRun>& runs, const AttentionGrid& grid, AttentionPlan* plan) {
  plan->tiles.clear();
  plan->splits = 1, plan->slots = 0;
  uint64_t work = 0;
  for (const AttentionRun& run : runs) {
    for (uint32_t at = 0; at < run.rows; at += tile_rows(grid)) {
      const uint32_t rows = std::min(tile_rows(grid), run.rows - at), position = run.position + at;
      work += units_seen(grid, position, rows, kTilePositions);
      plan->tiles.push_back({run.row + at, rows, static_cast<int32_t>(position), 0, 0});
    }
  }
  // No block takes longer than all of them if they shared the work evenly, as far as splits allow.
  const uint64_t even = work * grid.kv_heads / blocks_beside(grid);
  for (AttentionTile& tile : plan->tiles) {
    const uint32_t position = static_cast<uint32_t>(tile.position),
                   splits = units_seen(grid, position, tile.rows, grid.split_positions);
    if (splits == 1) continue;
    tile.slot = plan->slots;
    tile.divided = units_seen(grid, position, tile.rows, kTilePositions) > even ? 1 : 0;
    if (tile.divided) plan->splits = std::max(plan->splits, splits);
    plan->slots += tile.rows * (tile.divided ? splits : 1);
  }
  std::stable_sort(plan->tiles.begin(), plan->tiles.end(),
                   [](const AttentionTile& a, const AttentionTile& b) { return a.position > b.position; });
}

void plan_single_rows(const int32_t* positions, uint32_t rows, uint32_t splits, AttentionPlan* plan) {
  plan->tiles.clear();
  for (uint32_t row = 0; row < rows; ++row) plan->tiles.push_back({row, 1, positions[row], row * splits, 1});
  plan->splits = splits, plan->slots = rows * splits;
}

uint32_t most_attention_slots(uint32_t rows, uint32_t splits, const AttentionGrid& grid) {
  // Tiles that are longer than an even share are fewer than shares.
  const uint32_t divided = ceil_div(blocks_beside(grid), grid.kv_heads) * tile_rows(grid);
  return rows + std::min(rows, divided) * splits;
}

}  // namespace filigree::cuda
