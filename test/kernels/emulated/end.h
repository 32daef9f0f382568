// After the kernels under test: what follows is C++ of the host again. No #pragma once, since CUDA's words may come back.
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef __shared__
