#include "cuda/narrow.h"
#include "cuda/store.cuh"

namespace filigree::cuda {
namespace {

constexpr uint32_t kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    narrow_kernel(const __nv_bfloat16* from, uint32_t cols, int8_t* codes, float* scales) {
  __shared__ float most[kThreads / 32];
  const size_t row = blockIdx.x;
  const __nv_bfloat16* const values = from + row * cols;
  float largest = 0;
  for (uint32_t c = threadIdx.x; c < cols; c += kThreads)
    largest = fmaxf(largest, fabsf(__bfloat162float(values[c])));
#pragma unroll
  for (int o = 16; o; o >>= 1) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, o));
  if (threadIdx.x % 32 == 0) most[threadIdx.x / 32] = largest;
  __syncthreads();
#pragma unroll
  for (uint32_t w = 0; w < kThreads / 32; ++w) largest = fmaxf(largest, most[w]);
  const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  for (uint32_t c = threadIdx.x; c < cols; c += kThreads)
    codes[row * cols + c] = static_cast<int8_t>(__float2int_rn(__bfloat162float(values[c]) * inverse));
  if (threadIdx.x == 0) scales[row] = largest / 127.0f;
}

}  // namespace

cudaError_t narrow_rows(const void* from, uint32_t rows, uint32_t cols, int8_t* codes, float* scales,
                        cudaStream_t stream) {
  return launch(narrow_kernel, dim3(rows), kThreads, 0, false, stream,
                static_cast<const __nv_bfloat16*>(from), cols, codes, scales);
}

}  // namespace filigree::cuda
