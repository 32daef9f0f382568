#pragma once

#include "compress/factor.h"
#include "compress/solve.h"

namespace filigree {

// The column sweep that SparseGPT (Frantar and Alistarh, arXiv 2301.00774, algorithm 1) and GPTQ (Frantar et al., arXiv 2210.17323)
// share. Columns go left to right in blocks of 128. A weight w_i that becomes q_i leaves the error e = (w_i - q_i) / U_ii, and the
// columns after it are corrected by -e U_i,i+1.. ; beyond the block all at once. U from DampedHessian::inverse_factor().

// Prunes: within a block the weights of least w_i^2 / U_ii^2 go (N:M: of their group, as corrected so far).
void sweep_prune(const SolveContext& context, const Pattern& pattern, double sparsity, DampedHessian& hessian,
                 DenseMatrix& weight, Mask& mask);

// Quantizes over a mask that stays: what it excludes is 0, and the error of holding it there is corrected like any other. 8 bits: one
// scale a row, from its largest weight; 4 bits: the scale of a group is searched when the sweep reaches it.
void sweep_quantize(const SolveContext& context, int bits, uint32_t group, const Mask& mask,
                    DampedHessian& hessian, DenseMatrix& weight, Codes& codes);

}  // namespace filigree
