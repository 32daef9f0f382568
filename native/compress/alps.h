#pragma once

#include "compress/factor.h"
#include "compress/solve.h"

namespace filigree {

// ALPS (Meng et al., arXiv 2406.07831): min |(W - D) X|^2 over D with an allowed pattern of zeros.
//
// 1. ADMM with l0 projection, on columns scaled to a unit diagonal of H: with G = W H,
//      B = (G - V + rho D) (H + rho I)^-1;  D = P(B + V / rho);  V += rho (B - D)
//    (their eq. 4), P keeping the largest; rho grows every third step by how much the support still moves, until it stands still.
// 2. Conjugate gradients on that support, a step size a row (their algorithm 2).
// Returns the number of ADMM steps.
uint32_t alps(const SolveContext& context, const Pattern& pattern, double sparsity,
              const DampedHessian& hessian, DenseMatrix& weight, Mask& mask);

// Step 2 alone: the weights that bring weight X nearest to target X where mask allows any. h [n][n] is symmetric positive definite.
void refit(const SolveContext& context, const float* h, const DenseMatrix& target, const Mask& mask,
           int steps, DenseMatrix& weight);

}  // namespace filigree
