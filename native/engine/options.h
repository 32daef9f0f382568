#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/adapter.h"
#include "engine/weights.h"
#include "kernels/attention/kv_layout.h"

namespace filigree {

// Where the layers are computed. automatic: on a GPU where one can be used and there are no adapters, else on the CPU.
enum class Device { automatic, cpu, cuda };

struct EngineOptions {
  Device device = Device::cpu;
  WeightOptions weights;
  KvType kv = KvType::f16;
  int threads = 0;  // 0 = ThreadPool::default_threads()
  std::string isa = "auto";
  // A row of logits does not depend on the rows beside it, bit for bit. On the CPU that always holds; a GPU is slower for it.
  bool deterministic = false;
  int32_t max_model_len = 0;
  int32_t max_slots = 0;
  int32_t max_batched_tokens = 0;
  uint64_t kv_bytes = 0;         // of the KV arena, on all devices together; rounded down to whole blocks
  bool kv_at_most = false;       // nobody asked for so much: a device that has less takes what it has
  uint32_t tensor_parallel = 1;  // GPUs that share the model
  std::string gpu_plans;         // launch shapes that were measured (cuda/plan_table.h), or nothing
  // Begin the next step's layers before this one is answered; where nothing is said, on a GPU, which computes meanwhile.
  std::optional<bool> look_ahead;
  std::vector<AdapterDescription> adapters;
};

}  // namespace filigree
