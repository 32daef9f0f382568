#include "kernels/norm/norm_lanes.h"
#include "kernels/simd/scalar.h"

namespace filigree {

NormOps norm_scalar() { return norm_ops<Scalar>(); }

}  // namespace filigree
