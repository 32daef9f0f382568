#include "kernels/quantize/quantize_lanes.h"
#include "kernels/simd/scalar.h"

namespace filigree {

QuantizeOps quantize_scalar() { return quantize_ops<Scalar>(); }

}  // namespace filigree
