#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/tensor_source.h"
#include "kernels/rope/frequencies.h"

namespace filigree {

// The numbers of a Llama-family decoder (Llama, Mistral, Qwen2): what differs between those is data here, never a branch on a
// name.
struct ModelConfig {
  uint32_t hidden = 0;
  uint32_t intermediate = 0;
  uint32_t layers = 0;
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t vocabulary = 0;
  float norm_eps = 1e-5f;
  uint32_t sliding_window = 0;  // 0 = none; a query sees itself and the window - 1 positions before it
  bool tied_head = false;
  bool qkv_bias = false;
  RopeConfig rope;

  uint32_t q_cols() const { return heads * head_dim; }
  uint32_t kv_cols() const { return kv_heads * head_dim; }
  uint32_t qkv_cols() const { return q_cols() + 2 * kv_cols(); }
};

// Throws invalid_argument naming the field that is out of range or contradicts another.
void validate(const ModelConfig& config);

// A model where it lies on disk.
struct ModelDescription {
  ModelConfig config;
  std::vector<std::string> files;
  std::vector<TensorDesc> tensors;
  std::string source_key;  // identifies the bytes, for the packed cache
};

}  // namespace filigree
