#include "kernels/simd/avx512.h"

#include "kernels/rope/rope_lanes.h"

namespace filigree {

RopeOps rope_avx512() { return rope_ops<Avx512>(); }

}  // namespace filigree
