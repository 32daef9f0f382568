#include "base/cpu_features.h"
#include "kernels/norm/norm.h"

namespace filigree {

#define FILIGREE_VARIANT(isa, available) NormOps norm_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT

NormOps select_norm([[maybe_unused]] const CpuFeatures& cpu) {
#define FILIGREE_VARIANT(isa, available) \
  if (available) return norm_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT
}

}  // namespace filigree
