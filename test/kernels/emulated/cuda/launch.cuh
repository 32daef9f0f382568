#pragma once

#include "cuda_runtime_api.h"
#include "device.h"

namespace filigree::cuda {

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, uint32_t threads, uint32_t shared_bytes, bool,
                   cudaStream_t, Arguments... arguments) {
  if (shared_bytes > emulated::kSharedBytes) return cudaErrorInvalidValue;
  emulated::launch({grid.x, grid.y, grid.z}, threads, [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
}

}  // namespace filigree::cuda
