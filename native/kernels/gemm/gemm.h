#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/gemm/fixed.h"

namespace filigree {

struct CpuFeatures;

// The innermost tile of a blocked matrix product over packed panels (Goto and van de Geijn, ACM TOMS 34(3), 2008):
//
//   c[i * cols + j] = sum over p < k of a[p * rows + i] * b[p * cols + j],   i < rows, j < cols
//
// p ascending from +0, multiply and add fused: every variant gives the same bits, whatever its tile's shape. c holds [rows][cols] and
// is overwritten. a and b need no alignment.
template <class T>
struct GemmTile {
  uint32_t rows, cols;
  void (*run)(size_t k, const T* a, const T* b, T* c);
};

// The same over bf16 pairs, a[(p * rows + i) * 2 + h] and b[(p * cols + j) * 2 + h], sums in f32 in the order of vdpbf16ps. Absent
// (run null) where the processor does not multiply bf16.
struct GemmTileBf16 {
  uint32_t rows = 0, cols = 0;
  void (*run)(size_t pairs, const uint16_t* a, const uint16_t* b, float* c) = nullptr;
};

struct GemmOps {
  const char* variant;
  GemmTile<float> f32;
  GemmTile<double> f64;
  GemmTileBf16 bf16;
  FixedGemm fixed;  // always there
};

// The best variant this build holds for `cpu`.
GemmOps select_gemm(const CpuFeatures& cpu);

inline constexpr uint32_t kMaxGemmTile = 16 * 32;  // elements of the largest tile

}  // namespace filigree
