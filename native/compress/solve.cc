#include "compress/solve.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "compress/round.h"

namespace filigree {

double outlier_share(const DenseMatrix& weight, const Statistics& statistics, double times) {
  std::vector<float> norms(weight.cols);
  for (uint32_t c = 0; c < weight.cols; ++c)
    norms[c] = std::sqrt(statistics.hessian()[size_t{c} * weight.cols + c]);
  double sum = 0;
  for (uint32_t r = 0; r < weight.rows; ++r)
    for (uint32_t c = 0; c < weight.cols; ++c) sum += std::fabs(weight.row(r)[c]) * norms[c];
  const double limit = times * sum / static_cast<double>(weight.size());
  uint64_t beyond = 0;
  for (uint32_t r = 0; r < weight.rows; ++r)
    for (uint32_t c = 0; c < weight.cols; ++c) beyond += std::fabs(weight.row(r)[c]) * norms[c] > limit;
  return static_cast<double>(beyond) / static_cast<double>(weight.size());
}

bool needs_statistics(const SolveOptions& options) {
  const bool prunes = !options.keep_mask && options.sparsity > 0;
  return (prunes && options.solver != Solver::magnitude && options.solver != Solver::none) ||
         (options.bits != 0 && options.rounding == Rounding::gptq);
}

SolveReport solve(const SolveContext& context, const SolveOptions& options, const Statistics* statistics,
                  DenseMatrix& weight, Codes& codes) {
  const auto started = std::chrono::steady_clock::now();
  SolveReport report;
  report.name = weight.name;
  report.rows = weight.rows;
  report.cols = weight.cols;
  if (options.bits != 0) {
    codes = round_nearest(weight, options.bits, options.group, scale_rule(options.rounding), context.pool);
    apply_codes(codes, weight, context.pool);
  }
  report.zeros = static_cast<uint64_t>(std::count(weight.data(), weight.data() + weight.size(), 0.0f));
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return report;
}

}  // namespace filigree
