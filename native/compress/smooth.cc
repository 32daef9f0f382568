#include "compress/smooth.h"

#include <algorithm>
#include <cmath>

namespace filigree {

void smooth_inputs(double alpha, Statistics& statistics, std::vector<float>& norm,
                   std::initializer_list<DenseMatrix*> weights) {
  const uint32_t cols = statistics.cols();
  std::vector<float> heaviest(cols), divisors(cols, 1.0f);
  for (const DenseMatrix* m : weights) {
    for (uint32_t r = 0; r < m->rows; ++r) {
      for (uint32_t c = 0; c < cols; ++c) heaviest[c] = std::max(heaviest[c], std::fabs(m->row(r)[c]));
    }
  }
  for (uint32_t c = 0; c < cols; ++c) {
    const double x = statistics.largest()[c], w = heaviest[c];
    if (x > 1e-5 && w > 1e-5)
      divisors[c] = static_cast<float>(std::clamp(std::pow(x, alpha) / std::pow(w, 1 - alpha), 1e-4, 1e4));
  }
  for (uint32_t c = 0; c < cols; ++c) norm[c] /= divisors[c];
  for (DenseMatrix* m : weights) {
    for (uint32_t r = 0; r < m->rows; ++r) {
      for (uint32_t c = 0; c < cols; ++c) m->row(r)[c] *= divisors[c];
    }
  }
  statistics.divide_columns(divisors);
}

}  // namespace filigree
