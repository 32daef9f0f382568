#include "kernels/codes/codes_lanes.h"
#include "kernels/simd/scalar.h"

namespace filigree {

CodeOps codes_scalar() { return code_ops<Scalar>(); }

}  // namespace filigree
