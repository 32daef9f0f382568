#pragma once

#include <initializer_list>

#include "compress/matrix.h"
#include "compress/statistics.h"

namespace filigree {

// SmoothQuant (Xiao et al., arXiv 2211.10438, eq. 4): column j of the input is divided by s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)
// and that of the weights multiplied by it, so that outliers of a few channels no longer set the scale of a whole row. The division
// is folded into the norm before the projections; the statistics become those of the new input.
void smooth_inputs(double alpha, Statistics& statistics, std::vector<float>& norm,
                   std::initializer_list<DenseMatrix*> weights);

}  // namespace filigree
