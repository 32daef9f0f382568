#include "cuda/device.h"

#include <cuda_runtime_api.h>

namespace filigree::cuda {
namespace {

std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

bool examine(int index, DeviceInfo* info, std::string* obstacle) {
  const auto fails = [&](cudaError_t error) {
    if (error == cudaSuccess) return false;
    cudaGetLastError();
    *obstacle = std::string("the GPU cannot be used: ") + cudaGetErrorString(error);
    return true;
  };
  cudaDeviceProp p;
  if (fails(cudaGetDeviceProperties(&p, index))) return false;
  info->name = p.name;
  info->major = p.major, info->minor = p.minor;
  info->multiprocessors = static_cast<uint32_t>(p.multiProcessorCount);
  info->shared_bytes = static_cast<uint32_t>(p.sharedMemPerBlockOptin);
  if (p.major < 8) {
    *obstacle = info->name + " has compute capability " + std::to_string(p.major) + "." +
                std::to_string(p.minor) + "; 8.0 or newer is needed";
    return false;
  }
  int before = 0;
  if (fails(cudaGetDevice(&before)) || fails(cudaSetDevice(index))) return false;
  size_t free = 0, total = 0;
  const cudaError_t asked = cudaMemGetInfo(&free, &total);
  cudaSetDevice(before);
  if (fails(asked)) return false;
  info->free_bytes = free, info->total_bytes = total;
  return true;
}

}  // namespace

bool find_devices(uint32_t wanted, std::vector<DeviceInfo>* devices, std::string* obstacle) {
  int count = 0, runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (driver == 0) {
    *obstacle = "no NVIDIA driver was found";
    return false;
  }
  if (error == cudaErrorInsufficientDriver || driver / 1000 < runtime / 1000) {
    *obstacle = "the NVIDIA driver knows CUDA " + version(driver) + ", this build needs " + version(runtime);
    return false;
  }
  if (error != cudaSuccess || count == 0) {
    *obstacle = count == 0 && error == cudaSuccess
                    ? "no GPU is visible to this process"
                    : std::string("the GPU cannot be used: ") + cudaGetErrorString(error);
    return false;
  }
  if (wanted > static_cast<uint32_t>(count)) {
    *obstacle = "--tensor-parallel " + std::to_string(wanted) + ": " + std::to_string(count) +
                (count == 1 ? " GPU is" : " GPUs are") + " visible to this process";
    return false;
  }
  devices->clear();
  for (int index = 0; index < (wanted > 0 ? static_cast<int>(wanted) : count); ++index) {
    DeviceInfo info;
    if (!examine(index, &info, obstacle)) return false;
    devices->push_back(std::move(info));
  }
  return true;
}

}  // namespace filigree::cuda
