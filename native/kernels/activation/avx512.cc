#include "kernels/simd/avx512.h"

#include "kernels/activation/activation_lanes.h"

namespace filigree {

ActivationOps activation_avx512() { return activation_ops<Avx512>(); }

}  // namespace filigree
