#include "base/cpu_features.h"
#include "kernels/activation/activation.h"

namespace filigree {

#define FILIGREE_VARIANT(isa, available) ActivationOps activation_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT

ActivationOps select_activation([[maybe_unused]] const CpuFeatures& cpu) {
#define FILIGREE_VARIANT(isa, available) \
  if (available) return activation_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT
}

}  // namespace filigree
