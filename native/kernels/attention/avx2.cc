#include "kernels/simd/avx2.h"

#include "kernels/attention/attention_lanes.h"

namespace filigree {

AttentionOps attention_avx2() { return attention_ops<Avx2>(); }

}  // namespace filigree
