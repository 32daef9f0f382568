#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/options.h"
#include "kernels/sample/digest.h"

namespace filigree {

// Consecutive tokens of one sequence.
struct Chunk {
  std::span<const int32_t> tokens;
  int32_t position = 0;             // of tokens[0]
  const int32_t* blocks = nullptr;  // of positions 0 .. position + tokens.size() - 1
  int32_t adapter = -1;             // index into EngineOptions::adapters; -1: the base alone
};

// A row of the last forward() whose logits are wanted, and the digest that will do instead.
struct LogitsWanted {
  uint32_t row = 0;
  DigestNeeded digest;
};
// The whole row, or its digest, then of a row that is finite.
struct LogitsRow {
  const float* all = nullptr;  // [vocabulary]
  LogitDigest digest;
};

struct BackendInfo {
  std::string device;  // "cpu", or the GPU's name
  WeightStatistics weights;
  std::vector<std::string> warnings;
  uint32_t kv_blocks = 0;
  uint64_t kv_bytes = 0, kv_bytes_per_token = 0, workspace_bytes = 0, adapter_bytes = 0;
};

// What holds a model's weights and its KV cache and computes the layers of a step. The engine above it (slots, chunks, sampling,
// log-probabilities) is the same whatever the device. One thread owns it.
class Backend {
 public:
  virtual ~Backend() = default;

  const BackendInfo& info() const { return info_; }
  // Most tokens of a forward() and most rows of a logits().
  uint32_t max_rows() const { return max_rows_; }
  uint32_t max_logit_rows() const { return max_logit_rows_; }
  // forward() returns before the layers are computed.
  bool asynchronous() const { return asynchronous_; }

  // One KV block over all layers; done before what is asked for next.
  virtual void copy_block(int32_t from, int32_t to) = 0;
  // Runs all layers over the chunks' tokens, at most max_rows, and stores their keys and values.
  virtual void forward(std::span<const Chunk> chunks) = 0;
  // The logits of rows, at most max_logit_rows, in host memory; valid until the next call. A backend may give all where a digest
  // would do.
  virtual std::span<const LogitsRow> logits(std::span<const LogitsWanted> wanted) = 0;
  // Of those of that call which are a digest, some as whole rows after all.
  virtual void complete(std::span<const uint32_t>) {}
  // The final hidden state [hidden], after the last norm, of a row of the last forward().
  virtual void final_state(uint32_t row, float* out) = 0;

 protected:
  BackendInfo info_;
  uint32_t max_rows_ = 0, max_logit_rows_ = 0;
  bool asynchronous_ = false;
};

// Blocks of an arena of kv_bytes with blocks of so many bytes over all layers. Throws invalid_argument if not even one
// sequence of max_model_len fits.
uint32_t kv_block_count(uint64_t bytes_per_block, const EngineOptions& options);

// Throw Error saying what is wrong with the model, the options or the machine.
std::unique_ptr<Backend> make_cpu_backend(const ModelDescription& model, const EngineOptions& options,
                                          const CpuFeatures& cpu, ThreadPool& pool,
                                          const LoadProgress& progress);
std::unique_ptr<Backend> make_cuda_backend(const ModelDescription& model, const EngineOptions& options,
                                           const CpuFeatures& cpu, ThreadPool& pool,
                                           const LoadProgress& progress);

// Empty if this build can use a GPU of this machine; else why not.
std::string cuda_obstacle();

struct Gpu {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  uint64_t total_bytes = 0, free_bytes = 0;
  uint64_t usable_bytes = 0;  // of the free ones, what weights and KV cache may take
};
// Those that this build can use; none where there is an obstacle.
std::vector<Gpu> usable_gpus();
// Empty if a model can be divided among several; else why not.
std::string nccl_obstacle();

// What launch shapes cost for 8, 16 and 32 tokens of a matrix, in microseconds: the one that is planned, the fastest.
struct GpuLaunch {
  uint32_t tokens = 0;
  double planned_us = 0, best_us = 0;
  std::string layout;
};
// Times them for a dense packed matrix on the first GPU; `plans` is a table of launch shapes (EngineOptions::gpu_plans), to which
// those that are faster than planned are added. Nothing for a matrix of too few zeros. Throws Error.
std::vector<GpuLaunch> tune_gpu(const linear::Matrix& matrix, std::string& plans);

}  // namespace filigree
