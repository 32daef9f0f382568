#include "compress/session.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/status.h"
#include "compress/round.h"
#include "compress/session_state.h"
#include "compress/smooth.h"

namespace filigree {
namespace {

uint32_t columns_of(const ModelConfig& c, size_t input) {
  return input == 1 ? c.q_cols() : input == 3 ? c.intermediate : c.hidden;
}

// Bytes of the largest layer's work, beside hidden states: values, packed weights, codes and encoded output, statistics, and the
// solver's matrices (the damped Hessian, its factor in f64, an inverse, and once more scaled where ADMM runs, which keeps five inverses
// of what several matrices read; six copies of the widest weight).
uint64_t estimate_layer_bytes(const ModelConfig& c, PassPrecision precision) {
  uint64_t weights = 0, widest = 0, grams = 0, largest_gram = 0;
  const uint64_t shapes[kLayerMatrices][2] = {{c.q_cols(), c.hidden},     {c.kv_cols(), c.hidden},
                                              {c.kv_cols(), c.hidden},    {c.hidden, c.q_cols()},
                                              {c.intermediate, c.hidden}, {c.intermediate, c.hidden},
                                              {c.hidden, c.intermediate}};
  for (const auto& [rows, cols] : shapes) {
    weights += rows * cols;
    widest = std::max(widest, rows * cols);
  }
  for (size_t i = 0; i < 4; ++i) {
    const uint64_t n = columns_of(c, i);
    grams += n * n * 4;
    largest_gram = std::max(largest_gram, n * n);
  }
  return weights * (4 + (precision == PassPrecision::f32 ? 4 : 2) + 4) + grams + largest_gram * 36 +
         uint64_t{c.hidden} * c.hidden * 20 + widest * 24;
}

void require_finite(const DenseMatrix& m) {
  for (size_t i = 0; i < m.size(); ++i) {
    if (std::isfinite(m.data()[i])) continue;
    throw Error(ErrorCode::corrupt_data, "tensor " + m.name + " holds a value that is not finite (row " +
                                             std::to_string(i / m.cols) + ", column " +
                                             std::to_string(i % m.cols) + "); the checkpoint is damaged");
  }
}

}  // namespace

Session::Session(const ModelDescription& model, SessionOptions options)
    : model_(model),
      options_(std::move(options)),
      cpu_(restrict_to(detect_cpu(), options_.isa)),
      pool_(options_.threads > 0 ? options_.threads : ThreadPool::default_threads()),
      ops_(select_gemm(cpu_)) {
  validate(model_.config);
  for (const std::string& path : model_.files) files_.push_back(File::open(path));
  if (options_.mask)
    for (const std::string& path : options_.mask->files) mask_files_.push_back(File::open(path));
  const ModelConfig& c = model_.config;
  for (const TokenWindows* windows : {&options_.calibration, &options_.held_out}) {
    for (const int32_t id : windows->ids) {
      if (id < 0 || static_cast<uint32_t>(id) >= c.vocabulary)
        throw Error(ErrorCode::invalid_argument, "token id " + std::to_string(id) +
                                                     " is outside the vocabulary of " +
                                                     std::to_string(c.vocabulary));
    }
  }
  layer_bytes_ = estimate_layer_bytes(c, options_.precision);
  const uint32_t longest = std::max({1u, options_.calibration.length, options_.held_out.length});
  uint32_t shortest = longest;
  for (const TokenWindows* windows : {&options_.calibration, &options_.held_out})
    if (windows->length > 0) shortest = std::min(shortest, windows->length);
  runner_ = std::make_unique<LayerRunner>(c, cpu_, pool_, longest, std::max(1u, 512 / shortest),
                                          options_.precision);
}

Session::~Session() = default;

Session::Source Session::model() const { return {model_.tensors, files_}; }

std::unique_ptr<RowSource> Session::Source::open(const std::string& name) const {
  for (const TensorDesc& tensor : tensors) {
    if (tensor.name == name) return open_rows(tensor, files);
  }
  throw Error(ErrorCode::corrupt_data, "tensor " + name + " is missing; the model's files are incomplete");
}

DenseMatrix Session::Source::matrix(const std::string& name) const {
  const std::unique_ptr<RowSource> source = open(name);
  DenseMatrix m(name, static_cast<uint32_t>(source->rows()), static_cast<uint32_t>(source->cols()));
  source->read_f32(0, m.rows, m.data());
  require_finite(m);
  return m;
}

std::vector<float> Session::Source::vector(const std::string& name) const {
  const std::unique_ptr<RowSource> source = open(name);
  std::vector<float> values(source->rows() * source->cols());
  source->read_f32(0, source->rows(), values.data());
  if (!std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }))
    throw Error(ErrorCode::corrupt_data,
                "tensor " + name + " holds a value that is not finite; the checkpoint is damaged");
  return values;
}

Session::Layer Session::read_layer(uint32_t index, const Source& source) const {
  const ModelConfig& c = model_.config;
  Layer layer;
  layer.prefix = "model.layers." + std::to_string(index) + ".";
  layer.attention_norm = source.vector(layer.prefix + "input_layernorm.weight");
  layer.ffn_norm = source.vector(layer.prefix + "post_attention_layernorm.weight");
  for (size_t i = 0; i < kLayerMatrices; ++i) {
    layer.matrices[i] = source.matrix(layer.prefix + kMatrixNames[i] + ".weight");
    const uint32_t rows = i == 0             ? c.q_cols()
                          : i == 1 || i == 2 ? c.kv_cols()
                          : i == 3 || i == 6 ? c.hidden
                                             : c.intermediate;
    if (layer.matrices[i].rows != rows || layer.matrices[i].cols != columns_of(c, kInputOf[i]))
      throw Error(ErrorCode::corrupt_data, "tensor " + layer.matrices[i].name +
                                               " has another shape than the model's configuration wants");
  }
  for (size_t i = 0; c.qkv_bias && i < 3; ++i) {
    const std::vector<float> bias = source.vector(layer.prefix + kMatrixNames[i] + ".bias");
    layer.qkv_bias.insert(layer.qkv_bias.end(), bias.begin(), bias.end());
  }
  return layer;
}

void Session::set_weights(Layer& layer) {
  LayerValues v;
  v.attention_norm = layer.attention_norm.data();
  v.ffn_norm = layer.ffn_norm.data();
  v.qkv_bias = layer.qkv_bias.empty() ? nullptr : layer.qkv_bias.data();
  const auto& m = layer.matrices;
  v.q = m[0].data(), v.k = m[1].data(), v.v = m[2].data(), v.o = m[3].data();
  v.gate = m[4].data(), v.up = m[5].data(), v.down = m[6].data();
  runner_->set_weights(v);
}

Mask Session::zeros_of_other(const DenseMatrix& matrix) const {
  const DenseMatrix other = Source{options_.mask->tensors, mask_files_}.matrix(matrix.name);
  if (other.rows != matrix.rows || other.cols != matrix.cols)
    throw Error(ErrorCode::invalid_argument,
                "tensor " + matrix.name + " has another shape in the model that the mask comes from (" +
                    std::to_string(other.rows) + " x " + std::to_string(other.cols) + ")");
  Mask mask(other.size());
  for (size_t i = 0; i < mask.size(); ++i) mask[i] = other.data()[i] != 0.0f;
  return mask;
}

LayerResult Session::compress_layer(const LayerOptions& options, const Progress& progress) {
  begin_tracks();
  Layer layer = read_layer(next_layer_, model());
  std::array<SolveOptions, kLayerMatrices> solves;
  bool measure = options.smooth > 0;
  for (size_t i = 0; i < kLayerMatrices; ++i) {
    solves[i] = options.solve;
    solves[i].sparsity = options.sparsity[i];
    measure = measure || (!options.skip[i] && needs_statistics(solves[i]));
  }
  std::array<SolveInput, 4> inputs;
  if (measure && calibration_->count == 0)
    throw Error(ErrorCode::invalid_argument, "this solver needs calibration text, and there is none");
  if (measure || dense_->count > 0) set_weights(layer);
  if (measure) collect(inputs, progress);
  if (dense_->count > 0) advance(*dense_, nullptr, progress, "held-out");
  if (options.smooth > 0) {
    smooth_inputs(options.smooth, *inputs[0].statistics, layer.attention_norm,
                  {&layer.matrices[0], &layer.matrices[1], &layer.matrices[2]});
    smooth_inputs(options.smooth, *inputs[2].statistics, layer.ffn_norm,
                  {&layer.matrices[4], &layer.matrices[5]});
  }

  LayerResult result;
  const SolveContext context{pool_, ops_, select_codes(cpu_)};
  // A folded norm is no value of the checkpoint any more; whatever it was stored as, it stays exact.
  const FloatType norm_type = FloatType::f32;
  encode_vector(layer.prefix + "input_layernorm.weight", layer.attention_norm, norm_type, result.tensors);
  encode_vector(layer.prefix + "post_attention_layernorm.weight", layer.ffn_norm, norm_type, result.tensors);
  size_t bias_at = 0;
  for (size_t i = 0; i < kLayerMatrices; ++i) {
    progress(kMatrixNames[i], static_cast<double>(i) / kLayerMatrices);
    DenseMatrix& m = layer.matrices[i];
    Codes codes;
    if (options.skip[i]) {
      SolveReport report;
      report.name = m.name;
      report.rows = m.rows, report.cols = m.cols;
      report.zeros = static_cast<uint64_t>(std::count(m.data(), m.data() + m.size(), 0.0f));
      result.reports.push_back(report);
    } else {
      Mask others;
      if (solves[i].keep_mask && options_.mask) {
        others = zeros_of_other(m);
        solves[i].mask = &others;
      }
      result.reports.push_back(solve(context, solves[i], inputs[kInputOf[i]], m, codes));
    }
    if (codes.bits == 0) {
      round_to_float_type(options.type, m.data(), m.size());
      encode_floats(m, options.type, result.tensors);
    } else {
      encode_codes(m, codes, result.tensors);
    }
    if (!layer.qkv_bias.empty() && i < 3) {
      const auto begin = layer.qkv_bias.begin() + static_cast<ptrdiff_t>(bias_at);
      encode_vector(layer.prefix + kMatrixNames[i] + ".bias", {begin, begin + m.rows}, FloatType::f32,
                    result.tensors);
      bias_at += m.rows;
    }
    if (i + 1 == kLayerMatrices || kInputOf[i + 1] != kInputOf[i]) inputs[kInputOf[i]] = {};
  }
  ++next_layer_;
  const bool last = next_layer_ == model_.config.layers;
  if ((!last && calibration_->count > 0) || sparse_->count > 0) set_weights(layer);
  if (!last) advance(*calibration_, nullptr, progress, "through the compressed layer");
  advance(*sparse_, nullptr, progress, "held-out, compressed");
  return result;
}

void Session::restore_layer(std::span<const TensorDesc> tensors, const std::vector<std::string>& paths) {
  begin_tracks();
  const uint32_t index = next_layer_++;
  const bool last = next_layer_ == model_.config.layers;
  if (dense_->count > 0) {
    Layer before = read_layer(index, model());
    set_weights(before);
    advance(*dense_, nullptr, {}, "");
  }
  std::vector<File> files;
  for (const std::string& path : paths) files.push_back(File::open(path));
  Layer layer = read_layer(index, {tensors, files});
  set_weights(layer);
  if (!last) advance(*calibration_, nullptr, {}, "");
  advance(*sparse_, nullptr, {}, "");
}

Sensitivity Session::probe_layer(const LayerOptions& options) {
  begin_tracks();
  Layer layer = read_layer(next_layer_++, model());
  set_weights(layer);
  std::array<SolveInput, 4> inputs;
  collect(inputs, {});
  if (next_layer_ < model_.config.layers) advance(*calibration_, nullptr, {}, "");
  Sensitivity out;
  const SolveContext context{pool_, ops_, select_codes(cpu_)};
  for (size_t i = 0; i < kLayerMatrices; ++i) {
    SolveInput& input = inputs[kInputOf[i]];
    out.outliers[i] = outlier_share(layer.matrices[i], *input.statistics, 5.0);
    SolveOptions solve_options = options.solve;
    solve_options.sparsity = options.sparsity[i];
    solve_options.bits = 0;
    Codes codes;
    out.error[i] = solve(context, solve_options, input, layer.matrices[i], codes).error;
  }
  return out;
}

std::vector<EncodedTensor> Session::final_norm() const {
  std::vector<EncodedTensor> out;
  encode_vector("model.norm.weight", model().vector("model.norm.weight"), FloatType::f32, out);
  return out;
}

}  // namespace filigree
