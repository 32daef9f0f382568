#include "kernels/rope/rope_lanes.h"
#include "kernels/simd/scalar.h"

namespace filigree {

RopeOps rope_scalar() { return rope_ops<Scalar>(); }

}  // namespace filigree
