#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace filigree::cuda {

// Memory of a device that weights and KV cache leave to workspaces, graphs and libraries.
inline uint64_t reserved_bytes(uint64_t total) {
  return total / 16 > uint64_t{1} << 30 ? total / 16 : uint64_t{1} << 30;
}

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;
  uint32_t multiprocessors = 0, shared_bytes = 0;
  uint64_t total_bytes = 0, free_bytes = 0;
};

// The first `count` GPUs of this process, or why they cannot be used: no driver, a driver older than this build, fewer GPUs, an
// architecture that it holds no kernels for. count 0: all there are.
bool find_devices(uint32_t count, std::vector<DeviceInfo>* devices, std::string* obstacle);

}  // namespace filigree::cuda
