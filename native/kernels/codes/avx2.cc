#include "kernels/simd/avx2.h"

#include "kernels/codes/codes_lanes.h"

namespace filigree {

CodeOps codes_avx2() { return code_ops<Avx2>(); }

}  // namespace filigree
