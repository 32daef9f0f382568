#include "kernels/attention/attention_lanes.h"
#include "kernels/simd/scalar.h"

namespace filigree {

AttentionOps attention_scalar() { return attention_ops<Scalar>(); }

}  // namespace filigree
