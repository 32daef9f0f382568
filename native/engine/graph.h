#pragma once

#include <atomic>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/function_ref.h"
#include "base/thread_pool.h"
#include "engine/activations.h"
#include "engine/backend.h"
#include "engine/kv_arena.h"
#include "engine/low_rank_pass.h"
#include "engine/weights.h"
#include "kernels/activation/activation.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/plan.h"
#include "kernels/norm/norm.h"
#include "kernels/rope/rope.h"

namespace filigree {

// The rows that multiply a layer's four projections, as calibration sees them: called once for each, in this order, with x [rows] of
// the projection's input, `stride` floats apart. False ends the layer there, before the projection.
using TapPoint = Site;
using LayerTap = FunctionRef<bool(TapPoint point, const float* x, size_t stride, uint32_t rows)>;

// The decoder: embedding, layers, final norm and head, over a mixed batch of prefill chunks and decode tokens.
//
//   h = embed(token)
//   per layer: h += Wo attention(rope(Wqkv norm(h)));  h += Wdown (silu(Wgate norm(h)) * Wup norm(h))
//   logits = Whead norm(h)
//
// where each W of a layer is W + scale B A for the rows of a sequence that has an adapter (low_rank_pass.h).
//
// Memory for max_rows rows is reserved once; forward() and logits() allocate nothing. A row's result depends on its own
// sequence alone: linear layers, norms and attention each promise it (see their headers).
class Graph {
 public:
  Graph(const ModelConfig& config, const ModelWeights& weights, std::span<const Adapter> adapters,
        KvArena& arena, const CpuFeatures& cpu, ThreadPool& pool, uint32_t max_rows, uint32_t max_chunks,
        uint32_t max_logit_rows, int64_t max_positions);

  // Runs all layers over the chunks' tokens, at most max_rows, and stores their keys and values.
  void forward(std::span<const Chunk> chunks);
  // Logits [rows.size()][vocabulary] of rows of the last forward(), at most max_logit_rows.
  const float* logits(std::span<const uint32_t> rows);

  // The final hidden state [hidden], after the last norm, of a row of the last forward().
  void final_state(uint32_t row, float* out) const;

  // One layer alone: hidden [rows][hidden], the layer's input, becomes its output. For calibration (layer_runner.h).
  void forward_layer(uint32_t index, std::span<const Chunk> chunks, float* hidden, const LayerTap& tap);

  size_t workspace_bytes() const;

 private:
  void prepare(std::span<const Chunk> chunks, bool embed);
  bool attention_layer(uint32_t index, uint32_t rows, const LayerTap* tap);
  void attend(uint32_t index);
  bool ffn_layer(uint32_t index, uint32_t rows, const LayerTap* tap);
  void rotate_and_store(uint32_t index, uint32_t row);
  // out = projection(input), then finish(first column, end column, thread) on the thread that computed them.
  void project(const Projection& projection, uint32_t rows, float* out, size_t stride,
               FunctionRef<void(uint32_t begin, uint32_t end, int thread)> finish);
  // work(row) for every row: on the calling thread when it is little, else on all.
  void each_row(uint32_t rows, size_t cost_per_row, FunctionRef<void(uint32_t row, int thread)> work);
  void add_columns(float* to, const float* from, uint32_t rows, uint32_t begin, uint32_t end);

  ModelConfig config_;
  const ModelWeights& weights_;
  KvArena& arena_;
  ThreadPool& pool_;

  NormOps norm_;
  RopeOps rope_;
  ActivationOps activation_;
  AttentionOps attention_;
  RopeFrequencies frequencies_;
  Activations activations_;
  AttentionPlan attention_plan_;
  LowRankPass low_rank_;

  uint32_t ffn_cols_;              // intermediate size rounded up to whole panels
  AlignedBuffer hidden_, normed_;  // [max_rows][hidden]
  AlignedBuffer qkv_;              // [max_rows][q | k | v]; attention writes its result over q
  AlignedBuffer gate_up_, ffn_;    // [max_rows][2 ffn_cols], [max_rows][ffn_cols]
  AlignedBuffer product_;          // [max_rows][hidden], before it joins the residual
  AlignedBuffer cos_, sin_;        // [max_rows][head_dim / 2]
  AlignedBuffer logits_;           // [max_logit_rows][vocabulary]
  AlignedBuffer scratch_;          // per thread
  size_t scratch_bytes_ = 0;

  struct Row {
    int32_t token;
    int32_t position;
    int32_t block;
  };
  std::atomic<uint32_t> next_chunk_[Projection::kMostParts];  // of the product at hand
  std::vector<Row> rows_;
  std::vector<AttendSequence> sequences_;
};

}  // namespace filigree
