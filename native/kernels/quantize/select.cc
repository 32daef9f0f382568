#include "base/cpu_features.h"
#include "kernels/quantize/quantize.h"

namespace filigree {

#define FILIGREE_VARIANT(isa, available) QuantizeOps quantize_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT

QuantizeOps select_quantize([[maybe_unused]] const CpuFeatures& cpu) {
#define FILIGREE_VARIANT(isa, available) \
  if (available) return quantize_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT
}

}  // namespace filigree
