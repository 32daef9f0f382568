#include "kernels/simd/neon.h"

#include "kernels/activation/activation_lanes.h"

namespace filigree {

ActivationOps activation_neon() { return activation_ops<Neon>(); }

}  // namespace filigree
