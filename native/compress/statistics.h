#pragma once

#include <vector>

#include "base/aligned_buffer.h"
#include "compress/product.h"
#include "engine/fixed_product.h"
#include "engine/layer_runner.h"

namespace filigree {

// What a projection's inputs were like over the calibration text: their second moments X^T X and the largest magnitude of each
// column. One for each distinct input: q, k and v share one, gate and up another.
class Statistics {
 public:
  explicit Statistics(uint32_t cols)
      : cols_(cols), gram_(size_t{cols} * cols * sizeof(float)), largest_(cols) {}

  void add(ThreadPool& pool, const GemmOps& ops, const float* x, size_t stride, uint32_t rows,
           PassPrecision precision);
  // Mirrors the upper part to the lower and scales to 2 / rows, as SparseGPT has it. Once, after the last add().
  void finish();
  // The same inputs, column j divided by divisors[j].
  void divide_columns(const std::vector<float>& divisors);

  uint32_t cols() const { return cols_; }
  const float* hessian() const { return gram_.as<float>(); }  // [cols][cols]
  const std::vector<float>& largest() const { return largest_; }

 private:
  uint32_t cols_;
  uint64_t rows_ = 0;
  AlignedBuffer gram_;
  std::vector<float> largest_;
  FixedPanels panels_;
};

}  // namespace filigree
