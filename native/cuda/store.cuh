#pragma once

#include "cuda/linear.h"
#include "cuda/ptx.cuh"

namespace filigree::cuda {

FILIGREE_DEVICE float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// One output of a row, its scales already applied.
FILIGREE_DEVICE void store_row(const Output& out, uint32_t row, uint32_t token, float value) {
  if (out.bias) value += out.bias[row];
  const size_t at = static_cast<size_t>(token) * out.stride + row;
  if (out.store == Store::bf16) {
    static_cast<__nv_bfloat16*>(out.data)[at] = __float2bfloat16(value);
  } else if (out.store == Store::f32) {
    static_cast<float*>(out.data)[at] = value;
  } else {
    static_cast<float*>(out.data)[at] += value;
  }
}

// A pair of rows of Store::swiglu: gate row 32 p + i and up row 32 p + 16 + i give column 16 p + i.
FILIGREE_DEVICE void store_swiglu(const Output& out, uint32_t gate_row, uint32_t token, float gate,
                                  float up) {
  if (out.bias) gate += out.bias[gate_row], up += out.bias[gate_row + 16];
  const uint32_t column = gate_row / 32 * 16 + gate_row % 16;
  static_cast<__nv_bfloat16*>(out.data)[static_cast<size_t>(token) * out.stride + column] =
      __float2bfloat16(silu(gate) * up);
}

// Launches with or without the dependent-launch attribute.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, uint32_t threads, uint32_t shared_bytes,
                   bool dependent, cudaStream_t stream, Arguments... arguments) {
  if (shared_bytes > 40 * 1024) {  // 48 KiB are allowed unasked, what a kernel declares itself included
    const cudaError_t raised = cudaFuncSetAttribute(
        reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (raised != cudaSuccess) return raised;
  }
  cudaLaunchAttribute attribute[1];
  attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute[0].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attribute;
  config.numAttrs = dependent ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

}  // namespace filigree::cuda
