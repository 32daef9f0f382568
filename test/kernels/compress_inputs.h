#pragma once

// Small matrices and inputs for tests of native/compress.

#include <algorithm>
#include <vector>

#include "compress/solve.h"
#include "harness.h"

namespace filigree::test {

inline std::vector<float> noise(Random& random, size_t n) {
  std::vector<float> out(n);
  for (float& x : out) x = random.normal();
  return out;
}

inline DenseMatrix matrix_of(Random& random, uint32_t rows, uint32_t cols) {
  DenseMatrix m("w.weight", rows, cols);
  for (size_t i = 0; i < m.size(); ++i) m.data()[i] = random.normal();
  return m;
}

inline DenseMatrix copy_of(const DenseMatrix& from) {
  DenseMatrix m(from.name, from.rows, from.cols);
  std::copy_n(from.data(), from.size(), m.data());
  return m;
}

// Inputs whose columns depend on each other, of very different sizes.
inline std::vector<float> inputs_of(Random& random, uint32_t rows, uint32_t n) {
  std::vector<float> x(size_t{rows} * n);
  for (uint32_t r = 0; r < rows; ++r) {
    const float common = random.normal();
    for (uint32_t c = 0; c < n; ++c)
      x[size_t{r} * n + c] = (random.normal() + common) * (0.1f + 3.0f * static_cast<float>(c % 7) / 7.0f);
  }
  return x;
}

inline Statistics statistics_of(ThreadPool& pool, const GemmOps& ops, const std::vector<float>& x,
                                uint32_t n) {
  Statistics s(n);
  s.add(pool, ops, x.data(), n, static_cast<uint32_t>(x.size() / n), PassPrecision::f32);
  s.finish();
  return s;
}

inline SolveInput input_of(ThreadPool& pool, const GemmOps& ops, const std::vector<float>& x, uint32_t n) {
  return SolveInput(std::make_unique<Statistics>(statistics_of(pool, ops, x, n)), true);
}

inline double error_of(const float* h, const DenseMatrix& a, const DenseMatrix& b) {
  double sum = 0;
  for (uint32_t r = 0; r < a.rows; ++r) {
    for (uint32_t i = 0; i < a.cols; ++i) {
      double inner = 0;
      for (uint32_t j = 0; j < a.cols; ++j)
        inner += double{h[size_t{i} * a.cols + j]} * (a.row(r)[j] - b.row(r)[j]);
      sum += inner * (a.row(r)[i] - b.row(r)[i]);
    }
  }
  return sum;
}

}  // namespace filigree::test
