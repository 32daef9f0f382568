#include "compress/statistics.h"

#include <algorithm>
#include <cmath>

namespace filigree {

void Statistics::add(ThreadPool& pool, const GemmOps& ops, const float* x, size_t stride, uint32_t rows,
                     PassPrecision precision) {
  rows_ += rows;
  if (precision == PassPrecision::i16)
    return add_fixed_gram(pool, ops.fixed, rows, cols_, x, stride, panels_, gram_.as<float>(),
                          largest_.data());
  add_gram(pool, ops, rows, cols_, x, stride, precision == PassPrecision::bf16, gram_.as<float>());
  for (uint32_t r = 0; r < rows; ++r) {
    const float* row = x + r * stride;
    for (uint32_t c = 0; c < cols_; ++c) largest_[c] = std::max(largest_[c], std::fabs(row[c]));
  }
}

void Statistics::finish() {
  panels_ = {};
  float* h = gram_.as<float>();
  const float scale = rows_ == 0 ? 0.0f : 2.0f / static_cast<float>(rows_);
  constexpr uint32_t kTile = 64;  // both sides of the diagonal stay in the cache
  for (uint32_t i0 = 0; i0 < cols_; i0 += kTile) {
    for (uint32_t j0 = i0; j0 < cols_; j0 += kTile) {
      for (uint32_t i = i0; i < std::min(cols_, i0 + kTile); ++i) {
        for (uint32_t j = std::max(i, j0); j < std::min(cols_, j0 + kTile); ++j) {
          const float value = h[size_t{i} * cols_ + j] * scale;
          h[size_t{i} * cols_ + j] = value;
          h[size_t{j} * cols_ + i] = value;
        }
      }
    }
  }
}

void Statistics::divide_columns(const std::vector<float>& divisors) {
  float* h = gram_.as<float>();
  for (uint32_t i = 0; i < cols_; ++i) {
    for (uint32_t j = 0; j < cols_; ++j) h[size_t{i} * cols_ + j] /= divisors[i] * divisors[j];
    largest_[i] /= divisors[i];
  }
}

}  // namespace filigree
