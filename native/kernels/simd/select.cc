#include "kernels/simd/select.h"

#include "kernels/activation/activation.h"
#include "kernels/attention/attention.h"
#include "kernels/codes/codes.h"
#include "kernels/norm/norm.h"
#include "kernels/quantize/quantize.h"
#include "kernels/rope/rope.h"
#include "kernels/sample/vocabulary.h"

namespace filigree {

FILIGREE_SELECT(ActivationOps, activation)
FILIGREE_SELECT(AttentionOps, attention)
FILIGREE_SELECT(CodeOps, codes)
FILIGREE_SELECT(NormOps, norm)
FILIGREE_SELECT(QuantizeOps, quantize)
FILIGREE_SELECT(RopeOps, rope)
FILIGREE_SELECT(VocabularyOps, vocabulary)

}  // namespace filigree
