#include "engine/layer_runner.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "engine/fixed_product.h"
#include "engine/interleaved_rows.h"
#include "formats/pack.h"

namespace filigree {
namespace {

constexpr uint32_t kRows = 512;  // that go through the layer together, as in Engine

class ValueRows final : public RowSource {
 public:
  ValueRows(const float* values, uint64_t rows, uint64_t cols) : values_(values), rows_(rows), cols_(cols) {}
  uint64_t rows() const override { return rows_; }
  uint64_t cols() const override { return cols_; }
  void read_f32(uint64_t row, uint64_t n, float* out) const override {
    std::memcpy(out, values_ + row * cols_, n * cols_ * sizeof(float));
  }

 private:
  const float* values_;
  uint64_t rows_, cols_;
};

ModelConfig one_layer(ModelConfig config) {
  config.layers = 1;
  return config;
}

KvLayout layout_of(const ModelConfig& c) {
  return {KvType::f32, static_cast<int>(c.kv_heads), static_cast<int>(c.head_dim)};
}

}  // namespace

LayerRunner::LayerRunner(const ModelConfig& config, const CpuFeatures& cpu, ThreadPool& pool,
                         uint32_t max_length, uint32_t batch, PassPrecision precision)
    : config_(one_layer(config)),
      cpu_(cpu),
      pool_(pool),
      max_length_(max_length),
      batch_(batch),
      blocks_((max_length + KvLayout::block_tokens - 1) / KvLayout::block_tokens),
      precision_(precision),
      ops_(select_gemm(cpu)),
      arena_(layout_of(config), 1, blocks_ * batch),
      tokens_(max_length),
      block_ids_(size_t{blocks_} * batch) {
  std::iota(block_ids_.begin(), block_ids_.end(), 0);
  weights_.layers.resize(1);
}

LayerRunner::~LayerRunner() = default;

size_t LayerRunner::bytes() const {
  size_t bytes = arena_.bytes() + (graph_ ? graph_->workspace_bytes() : 0);
  const LayerWeights& layer = weights_.layers[0];
  for (const Projection* p : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down})
    bytes += p->fixed ? p->fixed->bytes() : p->bytes();
  return bytes;
}

void LayerRunner::add_rows(Projection& projection, std::initializer_list<const RowSource*> parts) const {
  if (precision_ == PassPrecision::i16) {
    projection.fixed = std::make_shared<FixedProduct>(ops_.fixed, pool_, parts);
    projection.in = projection.fixed->in();
    projection.out = projection.fixed->out();
    return;
  }
  PackOptions options;
  options.format = precision_ == PassPrecision::bf16 ? linear::Format::bf16 : linear::Format::f32;
  options.layout = linear::Layout::dense;
  projection.add(pack(std::span(parts.begin(), parts.size()), options, cpu_, pool_), cpu_);
}

void LayerRunner::set_weights(const LayerValues& v) {
  const ModelConfig& c = config_;
  graph_.reset();  // it refers to the weights
  LayerWeights& layer = weights_.layers[0];
  layer = {};
  layer.attention_norm.assign(v.attention_norm, v.attention_norm + c.hidden);
  layer.ffn_norm.assign(v.ffn_norm, v.ffn_norm + c.hidden);
  const ValueRows q(v.q, c.q_cols(), c.hidden), k(v.k, c.kv_cols(), c.hidden),
      values(v.v, c.kv_cols(), c.hidden);
  const ValueRows o(v.o, c.hidden, c.q_cols()), down(v.down, c.hidden, c.intermediate);
  const ValueRows gate(v.gate, c.intermediate, c.hidden), up(v.up, c.intermediate, c.hidden);
  add_rows(layer.qkv, {&q, &k, &values});
  if (v.qkv_bias != nullptr) layer.qkv.bias.assign(v.qkv_bias, v.qkv_bias + c.qkv_cols());
  add_rows(layer.output, {&o});
  add_rows(layer.gate_up, {interleave_rows(gate, up).get()});
  layer.interleaved = true;
  layer.gate_up.together = 2;
  add_rows(layer.down, {&down});
  graph_ = std::make_unique<Graph>(c, weights_, std::span<const Adapter>(), arena_, cpu_, pool_, kRows, kRows,
                                   0, max_length_);
}

void LayerRunner::run(float* hidden, uint32_t sequences, uint32_t length, const LayerTap& tap) {
  const auto flush = [&](uint32_t first_row) {
    graph_->forward_layer(0, chunks_, hidden + size_t{first_row} * config_.hidden, tap);
    chunks_.clear();
  };
  uint32_t done = 0, gathered = 0;
  chunks_.clear();
  for (uint32_t s = 0; s < sequences; ++s) {
    for (uint32_t position = 0; position < length;) {
      const uint32_t count = std::min(length - position, kRows - gathered);
      chunks_.push_back({std::span<const int32_t>(tokens_).first(count), static_cast<int32_t>(position),
                         block_ids_.data() + size_t{s} * blocks_});
      position += count;
      gathered += count;
      if (gathered < kRows) continue;
      flush(done);
      done += gathered;
      gathered = 0;
    }
  }
  if (gathered > 0) flush(done);
}

}  // namespace filigree
