#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace filigree::cuda {

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
