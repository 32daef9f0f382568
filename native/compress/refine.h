#pragma once

#include "compress/solve.h"

namespace filigree {

// Lowers |(target - weight) X|^2 = tr((target - weight) h (target - weight)^T) over the codes and, with 4 bits, the scales of a matrix
// that is rounded already; h [cols][cols], positive definite. Blocks of columns that share a scale (8 bits: runs of 128) in turn, all
// others as they are: within a block the error is a quadratic form around its unrounded optimum, and of a row of trial scales that one
// is taken whose codes, rounded column by column with the rest of the block corrected for each (Babai's nearest plane, which is GPTQ's
// sweep of the block alone), come closest, or the codes that are there where those are better; then coordinate descent on the codes (QuantEase: Behdin et al., arXiv 2309.01885, eq. 8) and
// the least-squares scale of the codes, by turns. A block changes only where its error falls, so the whole error does. What the mask
// excludes stays 0. Up to `passes` over the matrix, fewer where nothing moves.
void refine_codes(const SolveContext& context, const float* h, const DenseMatrix& target, const Mask& mask,
                  int passes, DenseMatrix& weight, Codes& codes);

}  // namespace filigree
