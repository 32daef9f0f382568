#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>

#include "compress/encode.h"
#include "compress/hidden_store.h"
#include "compress/solve.h"
#include "engine/layer_runner.h"

namespace filigree {

// Token ids, [count][length].
struct TokenWindows {
  uint32_t length = 0;
  std::vector<int32_t> ids;
  uint32_t count() const { return length == 0 ? 0 : static_cast<uint32_t>(ids.size() / length); }
};

struct SessionOptions {
  int threads = 0;
  std::string isa = "auto";
  PassPrecision precision = PassPrecision::f32;
  uint64_t memory = 0;       // bytes to stay within where that is possible; 0 = no bound
  std::string spill_folder;  // for hidden states that do not fit
  TokenWindows calibration;
  TokenWindows held_out;                 // judged before and after, as it goes along
  bool judge_original = true;            // also before
  std::optional<ModelDescription> mask;  // a model of the same shape whose zeros `keep_mask` takes over
};

inline constexpr size_t kLayerMatrices = 7;  // q k v o gate up down

struct LayerOptions {
  SolveOptions solve;
  std::array<double, kLayerMatrices> sparsity{};
  std::array<bool, kLayerMatrices> skip{};  // left as they are
  double smooth = 0;                        // SmoothQuant's alpha; 0 = off
  FloatType type = FloatType::bf16;         // of what stays floating point
};

// How an embedding or a head is stored.
struct VocabularyRounding {
  int bits = 0;
  uint32_t group = 0;
  ScaleRule rule = ScaleRule::largest;
  FloatType type = FloatType::f32;  // without bits
};

struct LayerResult {
  std::vector<SolveReport> reports;
  std::vector<EncodedTensor> tensors;
};

struct Perplexity {
  double before = 0, after = 0;  // before: 0 where it was not asked for
  uint64_t tokens = 0;           // that were predicted
};

struct Sensitivity {
  std::array<double, kLayerMatrices> error{};  // relative output error of the solver's pruning alone
  std::array<double, kLayerMatrices>
      outliers{};  // share of weights whose Wanda score exceeds 5 times the matrix's mean
};

// A compression of one model, layer by layer: the hidden states of the calibration text wait between layers, those of the held-out
// text on two tracks, through the model as it was and as it becomes. One layer's weights are in memory at a time.
// Layers are taken in order, each once: compress_layer() or restore_layer().
class Session {
 public:
  // (stage, share done 0..1) within a layer.
  using Progress = std::function<void(const char* stage, double share)>;

  Session(const ModelDescription& model, SessionOptions options);
  ~Session();

  // The embedding (name model.embed_tokens.weight) before the first layer, and lm_head.weight, if there is one, at any time:
  // rounded to the nearest codes, or stored as they are.
  std::vector<EncodedTensor> compress_vocabulary(const std::string& name, const VocabularyRounding& rounding);
  LayerResult compress_layer(const LayerOptions& options, const Progress& progress);
  // A layer that an earlier session finished: its tensors as they lie in `files`.
  void restore_layer(std::span<const TensorDesc> tensors, const std::vector<std::string>& files);
  // How the layer would fare under `options`, left as it is; every layer once, instead of compress_layer().
  Sensitivity probe_layer(const LayerOptions& options);
  std::vector<EncodedTensor> final_norm() const;
  // Of the held-out text, after the last layer.
  Perplexity perplexity();

  // Bytes that a layer takes beside the hidden states: what `memory` cannot go below.
  uint64_t layer_bytes() const { return layer_bytes_; }
  bool spilled() const { return spilled_; }

 private:
  struct Layer;
  struct Track;
  struct Source;  // tensors and the files they lie in

  Source model() const;
  Layer read_layer(uint32_t index, const Source& source) const;
  void embed(Track& track, const TokenWindows& windows, bool compressed);
  void begin_tracks();
  void advance(Track& track, const LayerTap* tap, const Progress& progress, const char* stage);
  void collect(std::array<SolveInput, 4>& inputs, const Progress& progress);
  double negative_log_likelihood(Track& track, const TokenWindows& windows, bool compressed);
  void set_weights(Layer& layer);
  Mask zeros_of_other(const DenseMatrix& matrix) const;  // of options_.mask

  ModelDescription model_;
  SessionOptions options_;
  CpuFeatures cpu_;
  ThreadPool pool_;
  GemmOps ops_;
  std::vector<File> files_, mask_files_;
  std::unique_ptr<LayerRunner> runner_;
  std::unique_ptr<Track> calibration_, dense_, sparse_;
  VocabularyRounding embedding_, head_;
  uint32_t next_layer_ = 0;
  uint64_t layer_bytes_ = 0;
  bool spilled_ = false;
};

}  // namespace filigree
