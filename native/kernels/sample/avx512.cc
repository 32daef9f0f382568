#include "kernels/simd/avx512.h"

#include "kernels/sample/vocabulary_lanes.h"

namespace filigree {

VocabularyOps vocabulary_avx512() { return vocabulary_ops<Avx512>(); }

}  // namespace filigree
