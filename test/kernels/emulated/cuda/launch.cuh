#pragma once

#include "cuda_runtime_api.h"
#include "device.h"

namespace filigree::cuda {

template <class Arguments>
cudaError_t launch(void (*kernel)(Arguments), dim3 grid, uint32_t threads, uint32_t shared_bytes, bool,
                   cudaStream_t, const Arguments& arguments) {
  if (shared_bytes > emulated::kSharedBytes) return cudaErrorInvalidValue;
  emulated::launch(grid.x, threads, [&] { kernel(arguments); });
  return cudaSuccess;
}

}  // namespace filigree::cuda
