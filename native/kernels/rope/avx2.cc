#include "kernels/simd/avx2.h"

#include "kernels/rope/rope_lanes.h"

namespace filigree {

RopeOps rope_avx2() { return rope_ops<Avx2>(); }

}  // namespace filigree
