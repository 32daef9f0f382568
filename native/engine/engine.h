#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "engine/ahead.h"
#include "engine/backend.h"
#include "engine/mask_prefetch.h"
#include "engine/step.h"
#include "grammar/grammar.h"
#include "kernels/sample/sample.h"

namespace filigree {

struct EngineInfo {
  int threads = 0;
  std::string device, isa;
  StepLimits limits;
  uint32_t hidden = 0;  // columns of a final state
  WeightStatistics weights;
  std::vector<std::string> warnings;
  uint64_t kv_bytes = 0, kv_bytes_per_token = 0, workspace_bytes = 0, adapter_bytes = 0;
  int32_t adapters = 0;
  bool look_ahead = false;  // steps are begun before they are asked for
};

// What one request brings to its slot.
struct Slot {
  Sampler sampler;
  std::vector<int32_t> prompt;  // kept only where prompt log-probabilities are wanted
  size_t prompt_length = 0;
  std::vector<double> pooled;  // sum of the prompt's final states so far, [hidden]; empty unless pooled
  std::unique_ptr<grammar::Matcher> constraint =
      nullptr;           // where the output stands in its grammar; null = free
  int32_t adapter = -1;  // index of its adapter; -1 = none
};

// A model in memory with its cache and samplers. Not thread-safe but for make_slot(): one thread owns it (see
// binding/engine_thread.h).
class Engine {
 public:
  // Throws Error saying what is wrong with the model, the options or the machine.
  static std::unique_ptr<Engine> load(const ModelDescription& model, const EngineOptions& options,
                                      const LoadProgress& progress);

  const EngineInfo& info() const { return info_; }

  // Checks a request and builds its sampler. adapter: an index into EngineOptions::adapters, -1 for the base alone. May be called
  // from any thread. Throws invalid_argument.
  std::unique_ptr<Slot> make_slot(SamplingParams params, std::span<const int32_t> prompt,
                                  std::span<const int32_t> output,
                                  std::unique_ptr<grammar::Matcher> constraint = nullptr,
                                  int32_t adapter = -1) const;

  void open_slot(int32_t index, std::unique_ptr<Slot> slot) {
    ahead_.forget(index);
    slots_[static_cast<size_t>(index)] = std::move(slot);
  }
  void close_slot(int32_t index) {
    ahead_.forget(index);
    slots_[static_cast<size_t>(index)].reset();
  }

  // Whether the next step will have other entries than those announced: then none is begun for them. From any thread.
  void hold(bool held) { held_.store(held, std::memory_order_relaxed); }

  // Computes a step, and begins the next one for the entries marked as going on. Throws invalid_argument, before anything has
  // changed, if the record does not fit; a row whose logits are not finite fails alone, in its output.
  void step(const StepRecord& record, StepResult& result);

 private:
  // A row of logits that somebody waits for.
  struct LogitRow {
    uint32_t row;  // in the backend's batch
    uint32_t entry;
    int32_t prompt_index;  // row of the entry's prompt log-probabilities; -1 = sample
    int32_t target;        // token whose log-probability is wanted, prompt rows only
  };

  // Rows of one entry whose final states are pooled, in the order of their positions.
  struct PooledRows {
    uint32_t row, count, entry;
    bool ends_prompt;
  };

  Engine(const ModelDescription& model, const EngineOptions& options, const LoadProgress& progress);
  void order_entries(const StepRecord& record);
  void lay_out(const StepRecord& record, StepResult& result);
  uint32_t answer_ahead(const StepRecord& record, StepResult& result);
  void begin_next(const StepRecord& record, const StepResult& result);
  void run_rows(const StepRecord& record, StepResult& result);
  void answer_rows(const StepRecord& record, StepResult& result);
  void pool_rows(const StepRecord& record, StepResult& result);
  DigestNeeded digest_needed(const LogitRow& row, const StepRecord& record) const;
  // False where the digest leaves the token open.
  bool draw_digested(const LogitRow& row, const LogitDigest& digest, const StepRecord& record,
                     StepResult& result);
  void finish_row(const LogitRow& row, const float* logits, int thread, const StepRecord& record,
                  StepResult& result);
  RowStatus sample_row(Slot& slot, const float* logits, SampleWorkspace& workspace, StepOutput& output,
                       StepResult& result);

  ModelConfig config_;
  CpuFeatures cpu_;
  ThreadPool pool_;
  std::unique_ptr<Backend> backend_;
  VocabularyOps vocabulary_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<SampleWorkspace> sample_workspaces_;  // one a thread
  EngineInfo info_;

  std::atomic<bool> held_ = false;
  Ahead ahead_;
  std::vector<int32_t> ahead_rows_;  // by entry: its row among those begun, or -1

  MaskPrefetch masks_;
  std::vector<grammar::Matcher*> constrained_;

  std::vector<uint32_t> order_;  // of a step's entries
  std::vector<Chunk> chunks_;
  std::vector<LogitRow> logit_rows_;
  std::vector<LogitsWanted> wanted_;
  std::vector<uint32_t> undecided_, whole_rows_;  // of wanted_
  std::vector<PooledRows> pooled_rows_;
  std::vector<float> state_;  // [hidden]
};

}  // namespace filigree
