#include "kernels/simd/avx2.h"

#include "kernels/sample/vocabulary_lanes.h"

namespace filigree {

VocabularyOps vocabulary_avx2() { return vocabulary_ops<Avx2>(); }

}  // namespace filigree
