#pragma once

#include <memory>
#include <string>

#include "base/cpu_features.h"
#include "compress/factor.h"
#include "compress/matrix.h"
#include "compress/product.h"
#include "compress/round.h"
#include "compress/statistics.h"
#include "kernels/codes/codes.h"

namespace filigree {

enum class Solver { none, magnitude, wanda, sparsegpt, alps };
enum class Rounding { gptq, nearest, search };

// Which zeros are allowed: any (of = 0); `keep` of every `of` neighbouring columns of a row (2:4, N:M); or, with block > 1, runs of
// `block` columns that are zero together.
struct Pattern {
  uint32_t keep = 0, of = 0, block = 1;
};

struct SolveOptions {
  Solver solver = Solver::sparsegpt;
  Pattern pattern;
  double sparsity = 0.5;       // share of zeros; decided by the pattern where that is N:M
  bool keep_mask = false;      // the matrix's own zeros stay, no others are made by pruning
  const Mask* mask = nullptr;  // with keep_mask: another matrix's zeros, taken over
  double damping = 0.01;       // share of the Hessian's mean diagonal that is added to it
  int bits = 0;                // 0, 8 or 4
  uint32_t group = 32;         // columns that share a scale, 4 bits only
  Rounding rounding = Rounding::gptq;
};

// What became of a matrix. Errors are |(W - W') X|^2 / |W X|^2 over the calibration inputs, W as it was; -1 without statistics.
struct SolveReport {
  std::string name;
  uint32_t rows = 0, cols = 0;
  uint64_t zeros = 0;
  double error_pruned = -1, error = -1;
  double damping = 0;  // as it had to be for the Hessian to be positive definite
  uint32_t dead = 0;   // columns whose input is always zero: their weights are pruned
  uint32_t iterations = 0;
  double seconds = 0;
};

struct SolveContext {
  ThreadPool& pool;
  const GemmOps& ops;
  CodeOps codes = select_codes({});
};

class AdmmFactors;

// What matrices of one input share: its statistics (null for a solver and a rounding that need none: needs_statistics) and, from the
// first matrix that wants them on, the Hessian with its factors. One damping for all of them.
struct SolveInput {
  SolveInput();
  explicit SolveInput(std::unique_ptr<Statistics> of, bool several = false);
  SolveInput(SolveInput&&) noexcept;
  SolveInput& operator=(SolveInput&&) noexcept;
  ~SolveInput();

  std::unique_ptr<Statistics> statistics;
  bool several = false;  // more than one matrix: factors are worth keeping
  std::unique_ptr<DampedHessian> hessian;
  std::unique_ptr<AdmmFactors> admm;
};

// Prunes and quantizes one matrix in place: its values become those of the codes. Codes stay empty without quantization.
// Throws corrupt_data for weights or statistics that are not finite.
SolveReport solve(const SolveContext& context, const SolveOptions& options, SolveInput& input,
                  DenseMatrix& weight, Codes& codes);

// Share of the weights whose Wanda score |w_ij| |x_j| exceeds `times` the matrix's mean: the layer outlier distribution of OWL (Yin
// et al., arXiv 2310.05175, eq. 2).
double outlier_share(const DenseMatrix& weight, const Statistics& statistics, double times);

// The rule behind a rounding; GPTQ chooses its own scales, and where it has no statistics (a vocabulary) takes the search.
inline ScaleRule scale_rule(Rounding rounding) {
  return rounding == Rounding::nearest ? ScaleRule::largest : ScaleRule::search;
}

bool needs_statistics(const SolveOptions& options);

}  // namespace filigree
