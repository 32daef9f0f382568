#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace filigree::cuda {

// One device's end of a sum over several, by NCCL, opened at run time: it is no dependency of the build, and only a model that is
// divided among GPUs needs it. Each end is used by one thread, whose current device is its own.
class Collective {
 public:
  // Empty if libnccl.so.2 can be opened; else why not.
  static std::string obstacle();
  // Ends of devices 0 to `ranks` - 1 of this process. Throws Error(unsupported) without NCCL, Error(internal) where it fails.
  static std::vector<std::unique_ptr<Collective>> open(uint32_t ranks);
  virtual ~Collective() = default;

  virtual uint32_t rank() const = 0;
  // to = the sum of every device's `from`, f32 [count], the same bits on all of them; from may be to. Throws Error(internal).
  virtual void add(const float* from, float* to, size_t count, cudaStream_t stream) = 0;

  // A device that fails says so, from any thread; those that wait for its sums then see it and abort, each its own end, which
  // stops its kernels. Captured graphs of such sums are destroyed before.
  virtual void cancel() = 0;
  virtual bool cancelled() const = 0;
  virtual void abort() = 0;
};

}  // namespace filigree::cuda
