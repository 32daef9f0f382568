#pragma once

#include <cstddef>

namespace filigree {

struct CpuFeatures;

// RMS norm: out[i] = (x[i] / sqrt(mean(x^2) + eps)) * weight[i], for one row of n.
// (Zhang and Sennrich, arXiv 1910.07467; the order of roundings is that of transformers' LlamaRMSNorm in f32.)
// The squares are summed in an order that depends on n alone and is the same in every variant: all variants agree bit for bit.
// out may be x. No alignment needed.
using RmsNormFn = void (*)(const float* x, const float* weight, float eps, size_t n, float* out);

// x[i] += y[i]: residual sums and biases.
using AddFn = void (*)(float* x, const float* y, size_t n);

struct NormOps {
  const char* variant;
  RmsNormFn rms_norm;
  AddFn add;
};

// The best variant this build holds for `cpu`.
NormOps select_norm(const CpuFeatures& cpu);

}  // namespace filigree
