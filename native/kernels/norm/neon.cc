#include "kernels/simd/neon.h"

#include "kernels/norm/norm_lanes.h"

namespace filigree {

NormOps norm_neon() { return norm_ops<Neon>(); }

}  // namespace filigree
