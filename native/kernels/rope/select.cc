#include "base/cpu_features.h"
#include "kernels/rope/rope.h"

namespace filigree {

#define FILIGREE_VARIANT(isa, available) RopeOps rope_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT

RopeOps select_rope([[maybe_unused]] const CpuFeatures& cpu) {
#define FILIGREE_VARIANT(isa, available) \
  if (available) return rope_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT
}

}  // namespace filigree
