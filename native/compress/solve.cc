#include "compress/solve.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/status.h"
#include "compress/alps.h"
#include "compress/factor.h"
#include "compress/masks.h"
#include "compress/refine.h"
#include "compress/round.h"
#include "compress/rows.h"
#include "compress/sweep.h"

namespace filigree {

SolveInput::SolveInput() = default;
SolveInput::SolveInput(std::unique_ptr<Statistics> of, bool several)
    : statistics(std::move(of)), several(several) {}
SolveInput::SolveInput(SolveInput&&) noexcept = default;
SolveInput& SolveInput::operator=(SolveInput&&) noexcept = default;
SolveInput::~SolveInput() = default;

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

namespace {

// Passes over the blocks after GPTQ's sweep: the steps of 8 bits are so small that little is left to do.
constexpr int kRefinements4 = 3, kRefinements8 = 1;
constexpr int kRefitSteps = 10;

// A sweep makes up for a column by the columns after it alone. Beyond this share of zeros it is worth ten products more to fit all kept
// weights to the mask: SmolLM2-135M at 70 % comes to perplexities of 256 to 325 without, as last bits have it, and of 207 to 212 with.
constexpr double kSweepReaches = 0.6;

using Clock = std::chrono::steady_clock;

// |D X|^2 = tr(D H D^T) over the rows of D, a panel of columns J at a time: D_J (2 sum over I before J of D_I H_IJ + D_J H_JJ).
double output_energy(const SolveContext& context, const float* h, const DenseMatrix& d) {
  constexpr uint32_t kPanel = 512;
  const uint32_t n = d.cols;
  DenseMatrix product("", d.rows, std::min(n, kPanel));
  double total = 0;
  for (uint32_t first = 0; first < n; first += kPanel) {
    const uint32_t width = std::min(kPanel, n - first);
    const auto add = [&](uint32_t from, uint32_t depth, float alpha, float beta) {
      multiply<float>(context.pool, context.ops, d.rows, width, depth, alpha, {d.data() + from, n, 1},
                      {h + size_t{from} * n + first, n, 1}, beta, product.data(), width);
    };
    add(first, width, 1.0f, 0.0f);
    if (first > 0) add(0, first, 2.0f, 1.0f);
    for (uint32_t r = 0; r < d.rows; ++r)
      for (uint32_t c = 0; c < width; ++c)
        total += double{product.data()[size_t{r} * width + c]} * d.row(r)[first + c];
  }
  return total;
}

double relative_error(const SolveContext& context, const float* h, const DenseMatrix& original,
                      const DenseMatrix& weight, double energy) {
  if (!(energy > 0)) return 0;
  DenseMatrix difference("", weight.rows, weight.cols);
  for (size_t i = 0; i < weight.size(); ++i) difference.data()[i] = weight.data()[i] - original.data()[i];
  return std::max(0.0, output_energy(context, h, difference)) / energy;
}

void magnitude_scores(const SolveContext& context, const DenseMatrix& weight, const Statistics* inputs,
                      std::vector<float>& scores) {
  std::vector<float> norms(weight.cols, 1.0f);
  for (uint32_t c = 0; inputs != nullptr && c < weight.cols; ++c)
    norms[c] = std::sqrt(inputs->hessian()[size_t{c} * weight.cols + c]);
  scores.resize(weight.size());
  share_rows(context.pool, weight.rows, [&](uint32_t begin, uint32_t end) {
    for (uint32_t r = begin; r < end; ++r)
      for (uint32_t c = 0; c < weight.cols; ++c)
        scores[size_t{r} * weight.cols + c] = std::fabs(weight.row(r)[c]) * norms[c];
  });
}

void prune(const SolveContext& context, const SolveOptions& options, SolveInput& input, DenseMatrix& weight,
           Mask& mask, SolveReport& report) {
  std::vector<float> scores;
  static const std::vector<bool> kNoneDead;
  switch (options.solver) {
    case Solver::none:
      return;
    case Solver::magnitude:
      magnitude_scores(context, weight, nullptr, scores);
      choose_mask(context.pool, options.pattern, options.sparsity, scores.data(), weight.rows, weight.cols,
                  kNoneDead, mask);
      break;
    case Solver::wanda:
      magnitude_scores(context, weight, input.statistics.get(), scores);
      choose_mask_by_row(context.pool, options.pattern, options.sparsity, scores.data(), weight.rows,
                         weight.cols, kNoneDead, mask);
      break;
    case Solver::sparsegpt:
      sweep_prune(context, options.pattern, options.sparsity, *input.hessian, weight, mask);
      break;
    case Solver::alps:
      if (!input.admm) input.admm = std::make_unique<AdmmFactors>(context, *input.hessian, input.several);
      report.iterations = alps(context, options.pattern, options.sparsity, *input.admm, weight, mask);
      break;
  }
  apply_mask(context.pool, mask, weight);
}

}  // namespace

SolveReport solve(const SolveContext& context, const SolveOptions& options, SolveInput& input,
                  DenseMatrix& weight, Codes& codes) {
  const auto started = Clock::now();
  const Statistics* statistics = input.statistics.get();
  SolveReport report;
  report.name = weight.name;
  report.rows = weight.rows;
  report.cols = weight.cols;
  const bool prunes = !options.keep_mask && options.sparsity > 0 && options.solver != Solver::none;
  const bool second_order = prunes && (options.solver == Solver::sparsegpt || options.solver == Solver::alps);
  const bool gptq = options.bits != 0 && options.rounding == Rounding::gptq;
  DampedHessian* hessian = nullptr;
  DenseMatrix original;
  double energy = 0;
  Mask mask(weight.size(), 1);
  if (options.keep_mask && options.mask != nullptr) {
    mask = *options.mask;
  } else if (!prunes) {
    // Without pruning, a kept mask is the zeros that are there; a dense matrix has none worth keeping.
    for (size_t i = 0; options.keep_mask && i < mask.size(); ++i) mask[i] = weight.data()[i] != 0.0f;
  }
  if (statistics != nullptr) {
    original = DenseMatrix(weight.name, weight.rows, weight.cols);
    std::copy_n(weight.data(), weight.size(), original.data());
    energy = output_energy(context, statistics->hessian(), weight);
    if (second_order || gptq) {
      try {
        if (!input.hessian)
          input.hessian = std::make_unique<DampedHessian>(context.pool, context.ops, statistics->hessian(),
                                                          weight.cols, options.damping);
      } catch (const Error& error) {
        throw Error(error.code(), "tensor " + weight.name + ": " + error.what());
      }
      hessian = input.hessian.get();
      report.damping = hessian->damping();
      report.dead = static_cast<uint32_t>(std::count(hessian->dead().begin(), hessian->dead().end(), true));
    }
  }

  if (prunes) {
    prune(context, options, input, weight, mask, report);
    if (options.solver == Solver::sparsegpt && options.pattern.of == 0 && options.sparsity > kSweepReaches)
      refit(context, hessian->values(), original, mask, kRefitSteps, weight);
  } else if (options.keep_mask) {
    apply_mask(context.pool, mask, weight);
  }
  if (statistics != nullptr)
    report.error_pruned = report.error =
        relative_error(context, statistics->hessian(), original, weight, energy);
  if (gptq) {
    // What a mask takes that was not made for these weights has been corrected for by nobody.
    if (options.keep_mask && options.mask != nullptr)
      refit(context, hessian->values(), original, mask, kRefitSteps, weight);
    sweep_quantize(context, options.bits, options.group, mask, *hessian, weight, codes);
    refine_codes(context, hessian->values(), original, mask,
                 options.bits == 4 ? kRefinements4 : kRefinements8, weight, codes);
  } else if (options.bits != 0) {
    codes = round_nearest(weight, options.bits, options.group, scale_rule(options.rounding), context.pool);
    apply_codes(codes, weight, context.pool);
  }
  if (statistics != nullptr && options.bits != 0)
    report.error = relative_error(context, statistics->hessian(), original, weight, energy);
  report.zeros = static_cast<uint64_t>(std::count(weight.data(), weight.data() + weight.size(), 0.0f));
  report.seconds = std::chrono::duration<double>(Clock::now() - started).count();
  return report;
}

}  // namespace filigree
