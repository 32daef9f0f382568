#include "kernels/simd/avx512.h"

#include "kernels/codes/codes_lanes.h"

namespace filigree {

CodeOps codes_avx512() { return code_ops<Avx512>(); }

}  // namespace filigree
