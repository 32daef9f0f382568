#pragma once

#include <vector>

#include "base/aligned_buffer.h"
#include "compress/product.h"

namespace filigree {

// Dense symmetric matrices in f64: the Hessians of a Llama have condition numbers that f32 does not carry.

// In place, a [n][n], of which the lower part is read: a = L L^T, L in the lower part (the upper part is left as it was). False if a is
// not positive definite; then its contents are of no use.
bool cholesky(ThreadPool& pool, const GemmOps& ops, size_t n, double* a);

// In place, L as cholesky() leaves it: L^-1, lower, its upper part zero. By halves: inv([A 0; B C]) = [A' 0; -C' B A' C'], nearly all
// of it in large products.
void invert_lower(ThreadPool& pool, const GemmOps& ops, size_t n, double* lower);

// (h + ridge I)^-1 as f32, h [n][n] symmetric. Throws corrupt_data if that is not positive definite.
AlignedBuffer ridge_inverse(ThreadPool& pool, const GemmOps& ops, const float* h, size_t n, double ridge);

// What solvers need of a Hessian h [n][n]. `damping` times the mean of its diagonal is added to it; if that does not make it
// positive definite, ten times as much, and so on. Columns with a zero diagonal (an input that is always zero) get 1 there.
// All matrices with the same input share one. Throws corrupt_data if h is not finite or no damping helps.
class DampedHessian {
 public:
  DampedHessian(ThreadPool& pool, const GemmOps& ops, const float* h, uint32_t n, double damping);

  uint32_t size() const { return n_; }
  double damping() const { return damping_; }                  // the share that was needed
  const std::vector<bool>& dead() const { return dead_; }      // columns whose input is always zero
  const float* values() const { return values_.as<float>(); }  // damped, [n][n]

  // U, upper triangular with U^T U = (damped h)^-1, as SparseGPT's and GPTQ's column sweeps walk it. Computed once.
  const float* inverse_factor();

 private:
  ThreadPool& pool_;
  const GemmOps& ops_;
  uint32_t n_;
  double damping_;
  std::vector<bool> dead_;
  AlignedBuffer values_, factor_;
  AlignedBuffer cholesky_;  // of the values in reversed order, f64, until factor_ is made of it
};

}  // namespace filigree
