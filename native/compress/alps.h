#pragma once

#include <array>
#include <vector>

#include "compress/factor.h"
#include "compress/solve.h"

namespace filigree {

// What ADMM needs of an input: its damped Hessian with columns scaled to a unit diagonal (the projection then weighs a weight by its
// input's size, as Wanda does), and (h + rho I)^-1 for the few rho it walks through. The rho are the same for every matrix, so those
// of one input share the inverses.
class AdmmFactors {
 public:
  static constexpr float kRho[] = {0.1f, 0.2f, 0.4f, 0.8f, 1.6f};

  // keep_all: the inverses wait for the next matrix; otherwise only the last one stays in memory.
  AdmmFactors(const SolveContext& context, const DampedHessian& hessian, bool keep_all);

  const std::vector<float>& scale() const { return scale_; }
  const float* h() const { return h_.as<float>(); }  // scaled, [n][n]
  const std::vector<bool>& dead() const { return dead_; }
  const float* inverse(const SolveContext& context, size_t i);  // of h + kRho[i] I

 private:
  uint32_t n_;
  bool keep_all_;
  std::vector<float> scale_;
  std::vector<bool> dead_;
  AlignedBuffer h_;
  std::array<AlignedBuffer, std::size(kRho)> inverses_;
};

// ALPS (Meng et al., arXiv 2406.07831): min |(W - D) X|^2 over D with an allowed pattern of zeros.
//
// 1. ADMM with l0 projection on scaled columns: with G = W H,
//      B = (G - V + rho D) (H + rho I)^-1;  D' = P(A + V / rho);  V += rho (A - D');  A = 1.5 B - 0.5 D
//    (their eq. 4 with over-relaxation: Boyd et al., Foundations and Trends in ML 3(1), 2011, section 3.4.3), P keeping the largest.
//    The paper lets rho grow by how much the support still moves, a factorization each time; here it doubles from 0.1 to 1.6, six
//    steps each. On SmolLM2's layers that ends within 1 % of the paper's error, after as many steps, with five factorizations that
//    all matrices of an input share.
// 2. Conjugate gradients on that support, a step size a row (their algorithm 2).
// Returns the number of ADMM steps.
uint32_t alps(const SolveContext& context, const Pattern& pattern, double sparsity, AdmmFactors& factors,
              DenseMatrix& weight, Mask& mask);

// Step 2 alone: the weights that bring weight X nearest to target X where mask allows any. h [n][n] is symmetric positive definite.
void refit(const SolveContext& context, const float* h, const DenseMatrix& target, const Mask& mask,
           int steps, DenseMatrix& weight);

}  // namespace filigree
