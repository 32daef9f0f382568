#include "kernels/simd/neon.h"

#include "kernels/rope/rope_lanes.h"

namespace filigree {

RopeOps rope_neon() { return rope_ops<Neon>(); }

}  // namespace filigree
