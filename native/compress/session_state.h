#pragma once

#include "compress/session.h"

// What session.cc and session_tracks.cc share.

namespace filigree {

// Matrices in the order of kLayerMatrices.
inline constexpr const char* kMatrixNames[kLayerMatrices] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
// Which of a layer's four inputs each multiplies, in the order of TapPoint.
inline constexpr size_t kInputOf[kLayerMatrices] = {0, 0, 0, 1, 2, 2, 3};

struct Session::Source {
  std::span<const TensorDesc> tensors;
  std::span<const File> files;

  std::unique_ptr<RowSource> open(const std::string& name) const;
  DenseMatrix matrix(const std::string& name) const;
  std::vector<float> vector(const std::string& name) const;
};

struct Session::Layer {
  std::string prefix;  // "model.layers.3."
  std::vector<float> attention_norm, ffn_norm, qkv_bias;
  std::array<DenseMatrix, kLayerMatrices> matrices;
};

struct Session::Track {
  uint32_t length, count;
  HiddenStore states;
  Track(const TokenWindows& windows, uint32_t width, const std::string& folder)
      : length(windows.length), count(windows.count()), states(windows.ids.size(), width, folder) {}
};

}  // namespace filigree
