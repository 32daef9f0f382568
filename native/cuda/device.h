#pragma once

#include <cstdint>
#include <string>

namespace filigree::cuda {

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;
  uint32_t multiprocessors = 0, shared_bytes = 0;
  uint64_t total_bytes = 0, free_bytes = 0;
  int driver = 0;  // CUDA version that the driver knows, as 1000 * major + 10 * minor
};

// The first GPU of this process, or why none can be used: no driver, a driver older than this build, an architecture that it
// holds no kernels for.
bool find_device(DeviceInfo* info, std::string* obstacle);

}  // namespace filigree::cuda
