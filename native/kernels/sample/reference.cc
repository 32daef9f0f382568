#include "kernels/sample/vocabulary_lanes.h"
#include "kernels/simd/scalar.h"

namespace filigree {

VocabularyOps vocabulary_scalar() { return vocabulary_ops<Scalar>(); }

}  // namespace filigree
