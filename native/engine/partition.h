#pragma once

#include "engine/weights.h"
#include "formats/slice.h"

namespace filigree {

// Tensor parallelism: what each of `ranks` devices holds of a model.
//
//   q, k, v     the rows of a rank's heads: it attends with them over a KV cache of its own KV heads
//   gate, up    the rows of its share of the feed-forward columns
//   o, down     the columns that meet those: every rank's product is a partial sum, and they are added (all-reduce)
//   head        its share of the vocabulary's rows: logits stand side by side
//   the rest    whole: embedding, norms
//
// Slices keep the codes and scales of the whole matrix, so a model quantized before it was cut answers as it did: partial
// sums differ from whole ones by the order of float additions alone, and not at all in integers.
class Partition {
 public:
  // Weights are dense, as load_weights() leaves them with WeightOptions::dense. Throws unsupported saying what does not divide.
  Partition(const ModelConfig& config, const ModelWeights& weights, uint32_t ranks);

  // Of the configuration alone, before anything is loaded; throws likewise.
  static void check_heads(const ModelConfig& config, uint32_t ranks);

  uint32_t ranks() const { return ranks_; }
  Range heads(uint32_t rank) const;
  Range kv_heads(uint32_t rank) const;
  Range ffn(uint32_t rank) const;         // columns of the feed-forward layer
  Range vocabulary(uint32_t rank) const;  // rows of the head

  LayerWeights layer(const LayerWeights& whole, uint32_t rank, const CpuFeatures& cpu) const;
  Projection head(const Projection& whole, uint32_t rank, const CpuFeatures& cpu) const;

 private:
  ModelConfig config_;
  uint32_t ranks_;
  uint32_t ffn_unit_, vocabulary_unit_;  // what shares are multiples of, but for the last
};

}  // namespace filigree
