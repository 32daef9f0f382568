#pragma once

#include <memory>

#include "formats/tensor_source.h"

namespace filigree {

// Two matrices of one shape as one whose rows alternate in runs of 16: 16 of `first`, 16 of `second`, and so on; the last runs
// are padded with zero rows. Packed so, the panels of gate and up that belong together are neighbours, and the thread that
// computes them applies SwiGLU at once: no barrier, and the products never leave its cache.
// Throws invalid_argument if the shapes or the codes differ.
std::unique_ptr<RowSource> interleave_rows(const RowSource& first, const RowSource& second);

}  // namespace filigree
