#include "base/cpu_features.h"
#include "kernels/attention/attention.h"

namespace filigree {

#define FILIGREE_VARIANT(isa, available) AttentionOps attention_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT

AttentionOps select_attention([[maybe_unused]] const CpuFeatures& cpu) {
#define FILIGREE_VARIANT(isa, available) \
  if (available) return attention_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT
}

}  // namespace filigree
