#include "engine/weight_plan.h"

#include <string_view>
#include <unordered_map>

#include "base/status.h"

namespace filigree {
namespace {

using linear::Format;

Format i4_format(const TensorDesc& tensor) {
  const bool blocks_of_32 =
      tensor.encoding == "q4_0" || tensor.encoding == "q4_1" || tensor.encoding == "q4_k";
  const bool codes = tensor.encoding == "pack-quantized" || tensor.encoding == "bitmask+pack-quantized";
  if (blocks_of_32 || (codes && tensor.group_size > 0 && tensor.group_size % 128 != 0)) return Format::i4g32;
  return Format::i4g128;
}

Format automatic_format(const TensorDesc& tensor) {
  const std::string_view encoding = tensor.encoding;
  if (encoding == "q4_0" || encoding == "q4_1" || encoding == "q4_k") return Format::i4g32;
  if (encoding == "pack-quantized" || encoding == "bitmask+pack-quantized") {
    return tensor.bits == 4 ? i4_format(tensor) : Format::i8;
  }
  if (encoding == "q8_0" || encoding == "q5_0" || encoding == "q5_1" || encoding == "q5_k" ||
      encoding == "q6_k" || encoding == "int-quantized" || encoding == "bitmask+int-quantized") {
    return Format::i8;
  }
  return Format::bf16;
}

Format format_of(const TensorDesc& tensor, WeightChoice choice) {
  switch (choice) {
    case WeightChoice::f32:
      return Format::f32;
    case WeightChoice::bf16:
      return Format::bf16;
    case WeightChoice::i8:
      return Format::i8;
    case WeightChoice::i4:
      return i4_format(tensor);
    case WeightChoice::automatic:
      break;
  }
  return automatic_format(tensor);
}

bool same_encoding(const TensorDesc& a, const TensorDesc& b) {
  return a.encoding == b.encoding && a.group_size == b.group_size && a.bits == b.bits &&
         a.symmetric == b.symmetric && a.parts.size() == b.parts.size();
}

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

class Planner {
 public:
  Planner(const ModelDescription& model, const WeightOptions& options) : model_(model), options_(options) {
    for (const TensorDesc& tensor : model.tensors) by_name_.emplace(tensor.name, &tensor);
  }

  WeightPlan plan() {
    const ModelConfig& c = model_.config;
    const TensorDesc& embedding = matrix("model.embed_tokens.weight", c.vocabulary, c.hidden);
    if (c.tied_head) {
      add(MatrixPlan::Place::head, 0, {&embedding}, options_.head, c.vocabulary, c.hidden);
    } else {
      add(MatrixPlan::Place::embedding, 0, {&embedding}, options_.head, c.vocabulary, c.hidden);
      // Rows are looked up one at a time: a dense layout finds them without counting bits.
      plan_.matrices.back().layout = linear::Layout::dense;
      add(MatrixPlan::Place::head, 0, {&matrix("lm_head.weight", c.vocabulary, c.hidden)}, options_.head,
          c.vocabulary, c.hidden);
    }
    vector("model.norm.weight", c.hidden);
    for (uint32_t l = 0; l < c.layers; ++l) layer(l);
    return std::move(plan_);
  }

 private:
  void layer(uint32_t l) {
    const ModelConfig& c = model_.config;
    const std::string prefix = "model.layers." + std::to_string(l) + ".";
    const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
    vector(prefix + "input_layernorm.weight", c.hidden);
    vector(prefix + "post_attention_layernorm.weight", c.hidden);
    if (c.qkv_bias) {
      vector(attention + "q_proj.bias", c.q_cols());
      vector(attention + "k_proj.bias", c.kv_cols());
      vector(attention + "v_proj.bias", c.kv_cols());
    }
    const TensorDesc& q = matrix(attention + "q_proj.weight", c.q_cols(), c.hidden);
    const TensorDesc& k = matrix(attention + "k_proj.weight", c.kv_cols(), c.hidden);
    const TensorDesc& v = matrix(attention + "v_proj.weight", c.kv_cols(), c.hidden);
    add_side_by_side(MatrixPlan::Place::qkv, l, {&q, &k, &v});
    add(MatrixPlan::Place::output, l, {&matrix(attention + "o_proj.weight", c.hidden, c.q_cols())},
        options_.matrices, c.hidden, c.q_cols());
    const TensorDesc& gate = matrix(mlp + "gate_proj.weight", c.intermediate, c.hidden);
    const TensorDesc& up = matrix(mlp + "up_proj.weight", c.intermediate, c.hidden);
    if (same_encoding(gate, up)) {
      const uint32_t padded =
          (c.intermediate + linear::kPanelRows - 1) / linear::kPanelRows * linear::kPanelRows;
      add(MatrixPlan::Place::gate_up, l, {&gate, &up}, options_.matrices, 2 * padded, c.hidden);
      plan_.matrices.back().interleaved = true;
    } else {
      add_side_by_side(MatrixPlan::Place::gate_up, l, {&gate, &up});
    }
    add(MatrixPlan::Place::down, l, {&matrix(mlp + "down_proj.weight", c.hidden, c.intermediate)},
        options_.matrices, c.hidden, c.intermediate);
  }

  // One matrix for all where the format allows it, else one for each run of tensors that share a format.
  void add_side_by_side(MatrixPlan::Place place, uint32_t layer,
                        const std::vector<const TensorDesc*>& tensors) {
    for (size_t i = 0; i < tensors.size();) {
      std::vector<const TensorDesc*> run;
      uint64_t rows = 0;
      for (const Format format = format_of(*tensors[i], options_.matrices);
           i < tensors.size() && format_of(*tensors[i], options_.matrices) == format; ++i) {
        run.push_back(tensors[i]);
        rows += tensors[i]->shape[0];
      }
      add(place, layer, run, options_.matrices, static_cast<uint32_t>(rows), model_.config.hidden);
    }
  }

  void add(MatrixPlan::Place place, uint32_t layer, std::vector<const TensorDesc*> tensors,
           WeightChoice choice, uint32_t rows, uint32_t cols) {
    MatrixPlan m;
    m.place = place;
    m.layer = layer;
    m.format = format_of(*tensors[0], choice);
    m.tensors = std::move(tensors);
    if (options_.dense) m.layout = linear::Layout::dense;
    m.rows = rows;
    m.cols = cols;
    plan_.matrices.push_back(std::move(m));
  }

  void vector(const std::string& name, uint32_t length) {
    const TensorDesc& tensor = find(name);
    if (tensor.shape.size() != 1 || tensor.shape[0] != length)
      wrong_shape(tensor, "[" + std::to_string(length) + "]");
    plan_.vectors.push_back({&tensor, length});
  }

  const TensorDesc& matrix(const std::string& name, uint32_t rows, uint32_t cols) {
    const TensorDesc& tensor = find(name);
    if (tensor.shape.size() != 2 || tensor.shape[0] != rows || tensor.shape[1] != cols) {
      wrong_shape(tensor, "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]");
    }
    return tensor;
  }

  const TensorDesc& find(const std::string& name) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      throw Error(ErrorCode::corrupt_data,
                  "tensor " + name + " is missing; the model's files are incomplete");
    }
    return *found->second;
  }

  [[noreturn]] static void wrong_shape(const TensorDesc& tensor, const std::string& expected) {
    throw Error(ErrorCode::corrupt_data, "tensor " + tensor.name + " has shape " + shape_text(tensor.shape) +
                                             " where the model's configuration wants " + expected);
  }

  const ModelDescription& model_;
  const WeightOptions& options_;
  std::unordered_map<std::string_view, const TensorDesc*> by_name_;
  WeightPlan plan_;
};

}  // namespace

std::string MatrixPlan::key() const {
  static constexpr const char* kPlaces[] = {"embedding", "head", "qkv", "output", "gate_up", "down"};
  std::string key = std::to_string(layer) + "." + kPlaces[static_cast<int>(place)];
  for (const TensorDesc* tensor : tensors) key += " " + tensor->name;
  if (interleaved) key += " interleaved";
  return key;
}

uint64_t MatrixPlan::source_bytes() const {
  uint64_t bytes = 0;
  for (const TensorDesc* tensor : tensors) {
    for (const auto& [name, part] : tensor->parts) bytes += part.bytes;
    if (tensor->parts.empty()) bytes += tensor->shape[0] * tensor->shape[1] * 4;
  }
  return bytes;
}

WeightPlan plan_weights(const ModelDescription& model, const WeightOptions& options) {
  return Planner(model, options).plan();
}

}  // namespace filigree
