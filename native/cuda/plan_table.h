#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/plan.h"

namespace filigree::cuda {

// Launch shapes of the tile kernel that were measured as the fastest on one kind of GPU, by matrix and number of tokens.
class GpuPlans {
 public:
  void put(const TileMatrix& m, const TilePlan& plan);
  // Moves the plan that was measured, if it is among those that fit, to the front.
  void prefer(const TileMatrix& m, uint32_t tokens, std::vector<TilePlan>& plans) const;

 private:
  friend struct PlanTable;
  std::map<std::string, std::string> launches_;
};

// Those of every kind of GPU, as text:
//   filigree launch shapes 1
//   [NVIDIA H200]
//   bf16 bitmask 17 12288x4096 8: 12 warps, 1 stages, 4 blocks, 1 parts
// The third word of a line is the matrix's class (most chunks of a lane), the last number before the colon the most tokens of the
// launch, and the blocks are the block columns of a slice, of which each warp has one of the parts.
struct PlanTable {
  std::map<std::string, GpuPlans> gpus;

  // Throws Error(corrupt_data) naming the line that is none of these. An empty text is an empty table.
  static PlanTable parse(std::string_view text);
  std::string text() const;
};

}  // namespace filigree::cuda
