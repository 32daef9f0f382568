#include "kernels/simd/neon.h"

#include "kernels/quantize/quantize_lanes.h"

namespace filigree {

QuantizeOps quantize_neon() { return quantize_ops<Neon>(); }

}  // namespace filigree
