#pragma once

#include <memory>

#include "engine/graph.h"
#include "kernels/gemm/gemm.h"

namespace filigree {

// Values of one layer in f32, borrowed; matrices [rows][cols] without padding.
struct LayerValues {
  const float* attention_norm = nullptr;
  const float* ffn_norm = nullptr;
  const float* qkv_bias = nullptr;  // [q | k | v], or null
  const float *q = nullptr, *k = nullptr, *v = nullptr, *o = nullptr;
  const float *gate = nullptr, *up = nullptr, *down = nullptr;
};

// What projections multiply in a calibration pass; everything else is f32. bf16: weights and inputs are rounded to it, twice as fast
// where the processor multiplies bf16. i16: block floating point (kernels/gemm/fixed.h), twice as fast where it adds products of 16 bits.
enum class PassPrecision { f32, bf16, i16 };

// The engine's forward pass one layer at a time, for calibration: only this layer's weights are resident, and whoever runs it sees
// what its projections multiply and keeps the hidden states between layers. Not thread-safe.
class LayerRunner {
 public:
  // Sequences of up to max_length tokens, `batch` of them at once.
  LayerRunner(const ModelConfig& config, const CpuFeatures& cpu, ThreadPool& pool, uint32_t max_length,
              uint32_t batch, PassPrecision precision);
  ~LayerRunner();

  void set_weights(const LayerValues& values);

  // hidden: `sequences` times [length][hidden], one after the other. The layer's output replaces it, unless `tap` ends the layer.
  void run(float* hidden, uint32_t sequences, uint32_t length, const LayerTap& tap);

  uint32_t batch() const { return batch_; }
  size_t bytes() const;  // that a layer's weights and the workspace take

 private:
  void add_rows(Projection& projection, std::initializer_list<const RowSource*> parts) const;

  ModelConfig config_;
  CpuFeatures cpu_;
  ThreadPool& pool_;
  uint32_t max_length_, batch_, blocks_;  // blocks of one sequence
  PassPrecision precision_;
  GemmOps ops_;
  KvArena arena_;
  ModelWeights weights_;
  std::unique_ptr<Graph> graph_;
  std::vector<int32_t> tokens_, block_ids_;
  std::vector<Chunk> chunks_;
};

}  // namespace filigree
