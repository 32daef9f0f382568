#include "cuda/device.h"

#include <cuda_runtime_api.h>

namespace filigree::cuda {
namespace {

std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

}  // namespace

bool find_device(DeviceInfo* info, std::string* obstacle) {
  int count = 0, runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&info->driver);
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (info->driver == 0) {
    *obstacle = "no NVIDIA driver was found";
    return false;
  }
  if (error == cudaErrorInsufficientDriver || info->driver / 1000 < runtime / 1000) {
    *obstacle =
        "the NVIDIA driver knows CUDA " + version(info->driver) + ", this build needs " + version(runtime);
    return false;
  }
  if (error != cudaSuccess || count == 0) {
    *obstacle = count == 0 && error == cudaSuccess
                    ? "no GPU is visible to this process"
                    : std::string("the GPU cannot be used: ") + cudaGetErrorString(error);
    return false;
  }
  cudaDeviceProp p;
  if (cudaGetDeviceProperties(&p, 0) != cudaSuccess) {
    *obstacle = std::string("the GPU cannot be used: ") + cudaGetErrorString(cudaGetLastError());
    return false;
  }
  info->name = p.name;
  info->major = p.major, info->minor = p.minor;
  info->multiprocessors = static_cast<uint32_t>(p.multiProcessorCount);
  info->shared_bytes = static_cast<uint32_t>(p.sharedMemPerBlockOptin);
  if (p.major < 8) {
    *obstacle = info->name + " has compute capability " + std::to_string(p.major) + "." +
                std::to_string(p.minor) + "; 8.0 or newer is needed";
    return false;
  }
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) {
    *obstacle = std::string("the GPU cannot be used: ") + cudaGetErrorString(cudaGetLastError());
    return false;
  }
  info->free_bytes = free, info->total_bytes = total;
  return true;
}

}  // namespace filigree::cuda
