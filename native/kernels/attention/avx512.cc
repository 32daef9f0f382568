#include "kernels/simd/avx512.h"

#include "kernels/attention/attention_lanes.h"

namespace filigree {

AttentionOps attention_avx512() { return attention_ops<Avx512>(); }

}  // namespace filigree
