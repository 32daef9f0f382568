#include "kernels/simd/neon.h"

#include "kernels/codes/codes_lanes.h"

namespace filigree {

CodeOps codes_neon() { return code_ops<Neon>(); }

}  // namespace filigree
