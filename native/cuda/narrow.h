#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace filigree::cuda {

// bf16 [rows][cols] as i8 codes [rows][cols] with a scale a row, -127 to 127.
cudaError_t narrow_rows(const void* from, uint32_t rows, uint32_t cols, int8_t* codes, float* scales,
                        cudaStream_t stream);

}  // namespace filigree::cuda
