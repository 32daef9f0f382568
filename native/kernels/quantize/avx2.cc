#include "kernels/simd/avx2.h"

#include "kernels/quantize/quantize_lanes.h"

namespace filigree {

QuantizeOps quantize_avx2() { return quantize_ops<Avx2>(); }

}  // namespace filigree
