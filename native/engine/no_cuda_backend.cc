#include "base/status.h"
#include "engine/backend.h"

// Stands in for cuda_backend.cc where no nvcc was found.

namespace filigree {

std::string cuda_obstacle() {
  return "this build has no CUDA backend (no nvcc was found when it was compiled)";
}

std::vector<Gpu> usable_gpus() { return {}; }

std::string nccl_obstacle() { return cuda_obstacle(); }

std::vector<GpuLaunch> tune_gpu(const linear::Matrix&, std::string&) {
  throw Error(ErrorCode::unsupported, cuda_obstacle());
}

std::unique_ptr<Backend> make_cuda_backend(const ModelDescription&, const EngineOptions&, const CpuFeatures&,
                                           ThreadPool&, const LoadProgress&) {
  throw Error(ErrorCode::unsupported, cuda_obstacle());
}

}  // namespace filigree
