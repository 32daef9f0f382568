#include "kernels/simd/avx512.h"

#include "kernels/norm/norm_lanes.h"

namespace filigree {

NormOps norm_avx512() { return norm_ops<Avx512>(); }

}  // namespace filigree
