#pragma once

#include <string>
#include <vector>

#include "cuda/matrix.h"
#include "cuda/plan_table.h"

namespace filigree::cuda {

// Of one matrix and number of tokens: microseconds of the launch that the plan chooses and of the fastest that was tried.
struct TunedLaunch {
  uint32_t tokens = 0;
  double planned_us = 0, best_us = 0;
  std::string layout;  // of the tiles: "bf16 bitmask"
};

// Times the tile kernel's launch shapes for 8, 16 and 32 tokens on copies of the matrix that rotate past the L2, and puts the
// fastest of each into `found` where it beats the planned one by more than the noise. A dense matrix has none. Throws Error.
std::vector<TunedLaunch> tune_tiles(const linear::Matrix& matrix, const MatrixOptions& options,
                                    GpuPlans& found);

}  // namespace filigree::cuda
