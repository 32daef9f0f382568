#include "kernels/simd/avx2.h"

#include "kernels/activation/activation_lanes.h"

namespace filigree {

ActivationOps activation_avx2() { return activation_ops<Avx2>(); }

}  // namespace filigree
