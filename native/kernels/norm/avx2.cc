#include "kernels/simd/avx2.h"

#include "kernels/norm/norm_lanes.h"

namespace filigree {

NormOps norm_avx2() { return norm_ops<Avx2>(); }

}  // namespace filigree
