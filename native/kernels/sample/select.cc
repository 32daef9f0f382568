#include "base/cpu_features.h"
#include "kernels/sample/vocabulary.h"

namespace filigree {

#define FILIGREE_VARIANT(isa, available) VocabularyOps vocabulary_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT

VocabularyOps select_vocabulary([[maybe_unused]] const CpuFeatures& cpu) {
#define FILIGREE_VARIANT(isa, available) \
  if (available) return vocabulary_##isa();
#include "kernels/simd/variants.inc"
#undef FILIGREE_VARIANT
}

}  // namespace filigree
