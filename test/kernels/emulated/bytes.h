#pragma once

#include <cstring>
#include <vector>

#include "cuda_runtime_api.h"

namespace filigree::test {

// 16-byte aligned, as device memory is.
struct Bytes {
  std::vector<uint4> memory;
  explicit Bytes(size_t bytes) : memory(bytes / 16 + 1) {}
  explicit Bytes(const std::vector<uint8_t>& from) : Bytes(from.size()) {
    std::memcpy(memory.data(), from.data(), from.size());
  }
  std::vector<uint8_t> copy(size_t bytes) const {
    std::vector<uint8_t> to(bytes);
    std::memcpy(to.data(), memory.data(), bytes);
    return to;
  }
};

}  // namespace filigree::test
