#include "kernels/simd/neon.h"

#include "kernels/attention/attention_lanes.h"

namespace filigree {

AttentionOps attention_neon() { return attention_ops<Neon>(); }

}  // namespace filigree
