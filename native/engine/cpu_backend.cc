#include <algorithm>
#include <optional>

#include "base/status.h"
#include "engine/adapter.h"
#include "engine/backend.h"
#include "engine/graph.h"

namespace filigree {
namespace {

// Rows that go through the layers together: enough to amortize the expansion of sparse tiles, few enough that the widest
// intermediate stays small. A longer step is run in such pieces; results do not depend on the cut.
constexpr uint32_t kMostRows = 512, kFewestRows = 64;
constexpr size_t kWidestBytes = size_t{24} << 20;
constexpr uint32_t kMostLogitRows = 32;

uint32_t batch_rows(const ModelConfig& c, int32_t max_batched_tokens) {
  const size_t row_bytes = size_t{2} * c.intermediate * sizeof(float);
  const uint32_t fitting =
      std::clamp<uint32_t>(static_cast<uint32_t>(kWidestBytes / row_bytes), kFewestRows, kMostRows);
  return std::min(fitting, static_cast<uint32_t>(max_batched_tokens));
}

WeightOptions with_isa(WeightOptions options, const CpuFeatures& cpu) {
  options.isa = best_isa(cpu);
  return options;
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const ModelDescription& model, const EngineOptions& options, const CpuFeatures& cpu,
             ThreadPool& pool, const LoadProgress& progress) {
    const ModelConfig& c = model.config;
    if (options.kv == KvType::fp8)
      throw Error(ErrorCode::unsupported, "on the CPU the KV cache is f32, f16, bf16 or i8 (--kv)");
    const KvLayout layout{options.kv, static_cast<int>(c.kv_heads), static_cast<int>(c.head_dim)};
    const uint64_t bytes_per_block = uint64_t{layout.bytes_per_block()} * c.layers;
    info_.kv_blocks = kv_block_count(bytes_per_block, options);
    weights_ = load_weights(model, with_isa(options.weights, cpu), cpu, pool, progress);
    for (const AdapterDescription& adapter : options.adapters) {
      adapters_.push_back(load_adapter(adapter, c, weights_, cpu, pool));
      info_.adapter_bytes += adapters_.back().bytes;
    }
    arena_.emplace(layout, c.layers, info_.kv_blocks);
    max_rows_ = batch_rows(c, options.max_batched_tokens);
    max_logit_rows_ = std::min(kMostLogitRows, std::max(8u, static_cast<uint32_t>(options.max_slots)));
    graph_.emplace(c, weights_, adapters_, *arena_, cpu, pool, max_rows_,
                   std::min(max_rows_, static_cast<uint32_t>(options.max_slots)), max_logit_rows_,
                   options.max_model_len);
    vocabulary_ = c.vocabulary;
    info_.device = "cpu";
    info_.weights = weights_.statistics;
    info_.warnings = weights_.warnings;
    info_.kv_bytes = arena_->bytes();
    info_.kv_bytes_per_token = bytes_per_block / KvLayout::block_tokens;
    info_.workspace_bytes = graph_->workspace_bytes();
  }

  void copy_block(int32_t from, int32_t to) override { arena_->copy_block(from, to); }
  void forward(std::span<const Chunk> chunks) override { graph_->forward(chunks); }
  std::span<const LogitsRow> logits(std::span<const LogitsWanted> wanted) override {
    rows_.clear();
    for (const LogitsWanted& w : wanted) rows_.push_back(w.row);
    const float* const logits = graph_->logits(rows_);
    answer_.clear();
    for (size_t i = 0; i < wanted.size(); ++i) answer_.push_back({logits + i * vocabulary_, {}});
    return answer_;
  }
  void final_state(uint32_t row, float* out) override { graph_->final_state(row, out); }

 private:
  ModelWeights weights_;
  std::vector<Adapter> adapters_;
  std::optional<KvArena> arena_;
  std::optional<Graph> graph_;
  size_t vocabulary_ = 0;
  std::vector<uint32_t> rows_;
  std::vector<LogitsRow> answer_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const ModelDescription& model, const EngineOptions& options,
                                          const CpuFeatures& cpu, ThreadPool& pool,
                                          const LoadProgress& progress) {
  return std::make_unique<CpuBackend>(model, options, cpu, pool, progress);
}

}  // namespace filigree
