#include "kernels/activation/activation_lanes.h"
#include "kernels/simd/scalar.h"

namespace filigree {

ActivationOps activation_scalar() { return activation_ops<Scalar>(); }

}  // namespace filigree
