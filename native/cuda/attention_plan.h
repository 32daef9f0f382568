#pragma once

#include <cstdint>
#include <vector>

// How a step's rows are dealt to the blocks of attention of prompts: a pure function of the step, tested without a GPU. What it decides
// changes no bit of a result.

namespace filigree::cuda {

// Rows of a step, at consecutive positions of one sequence, that a block attends with their query heads of a key head. Several splits of
// their context are `divided` among blocks, or else taken in turn by one.
struct AttentionTile {
  uint32_t row = 0, rows = 0;
  int32_t position = -1;  // of the first; -1: padding
  uint32_t slot =
      0;  // its first one of the partial sums': one for each row, if divided one for each row and split
  uint32_t divided = 0;
};

// Queries of a block: rows times heads.
inline constexpr uint32_t kTileQueries = 64;
// A split of the context ends where this many positions do.
inline constexpr uint32_t kTilePositions = 64;

struct AttentionGrid {
  uint32_t group = 1, kv_heads = 1;  // query heads of a key head, key heads
  uint32_t split_positions = 512, sliding_window = 0;
  uint32_t multiprocessors = 132;
};

// Rows of one sequence in a step.
struct AttentionRun {
  uint32_t row = 0, rows = 0, position = 0;
};

struct AttentionPlan {
  std::vector<AttentionTile> tiles;  // the longest first
  uint32_t splits = 1;               // of a divided tile, at most
  uint32_t slots = 0;
};

void plan_attention(const std::vector<AttentionRun>& runs, const AttentionGrid& grid, AttentionPlan* plan);
// A row each, for a graph that serves contexts of up to so many splits.
void plan_single_rows(const int32_t* positions, uint32_t rows, uint32_t splits, AttentionPlan* plan);
// At most, of plan_attention() for so many rows of contexts of so many splits.
uint32_t most_attention_slots(uint32_t rows, uint32_t splits, const AttentionGrid& grid);

}  // namespace filigree::cuda
