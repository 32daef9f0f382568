#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/weights.h"

namespace filigree {

// One packed matrix of a model, before it exists: which tensors go into it and in which form. A function of the description and
// the options alone, so that the cache and the packer speak of the same list.
struct MatrixPlan {
  enum class Place { embedding, head, qkv, output, gate_up, down };
  Place place;
  uint32_t layer = 0;
  std::vector<const TensorDesc*> tensors;
  bool interleaved = false;
  linear::Format format = linear::Format::f32;
  std::optional<linear::Layout> layout;  // left out: decided by the zeros that are counted
  uint32_t rows = 0, cols = 0;

  std::string key() const;  // unique within the model
  uint64_t source_bytes() const;
};

// In-memory vectors, in the order they stand in the packed cache.
struct VectorPlan {
  const TensorDesc* tensor;
  uint32_t length;
};

struct WeightPlan {
  std::vector<MatrixPlan> matrices;
  std::vector<VectorPlan>
      vectors;  // final norm, then per layer: attention norm, ffn norm, [q bias, k bias, v bias]
};

// Throws corrupt_data for a missing tensor or a shape that contradicts the configuration.
WeightPlan plan_weights(const ModelDescription& model, const WeightOptions& options);

}  // namespace filigree
