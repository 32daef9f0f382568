#include "kernels/simd/avx512.h"

#include "kernels/quantize/quantize_lanes.h"

namespace filigree {

QuantizeOps quantize_avx512() { return quantize_ops<Avx512>(); }

}  // namespace filigree
