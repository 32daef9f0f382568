#pragma once

#include <cstddef>
#include <cstdint>

namespace filigree {

struct CpuFeatures;

// Rotates the pairs (x[i], x[i + head_dim/2]) of each of `heads` heads in a row [heads][head_dim] by the angles whose cosines
// and sines are given [head_dim/2] ("rotate half" pairing, as in Hugging Face checkpoints; Su et al., arXiv 2104.09864):
//   x[i]              <- x[i] cos[i] - x[i + head_dim/2] sin[i]
//   x[i + head_dim/2] <- x[i + head_dim/2] cos[i] + x[i] sin[i]
// head_dim is even. All variants agree bit for bit.
using RopeApplyFn = void (*)(float* row, size_t heads, size_t head_dim, const float* cos, const float* sin);

struct RopeOps {
  const char* variant;
  RopeApplyFn apply;
};

RopeOps select_rope(const CpuFeatures& cpu);

}  // namespace filigree
