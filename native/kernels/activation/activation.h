#pragma once

#include <cstddef>

namespace filigree {

struct CpuFeatures;

// out[i] = silu(gate[i]) * up[i], silu(x) = x / (1 + exp(-x)) (Shazeer, arXiv 2002.05202).
// exp is ours (simd/math.h, within 2 ulp), so all variants agree bit for bit. out may be gate or up.
using SwigluFn = void (*)(const float* gate, const float* up, size_t n, float* out);

struct ActivationOps {
  const char* variant;
  SwigluFn swiglu;
};

ActivationOps select_activation(const CpuFeatures& cpu);

}  // namespace filigree
