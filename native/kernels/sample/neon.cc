#include "kernels/simd/neon.h"

#include "kernels/sample/vocabulary_lanes.h"

namespace filigree {

VocabularyOps vocabulary_neon() { return vocabulary_ops<Neon>(); }

}  // namespace filigree
