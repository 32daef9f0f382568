#include "engine/weights.h"

#include <memory>

#include "base/file.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "engine/interleaved_rows.h"
#include "engine/packed_cache.h"
#include "engine/weight_plan.h"
#include "formats/pack.h"

namespace filigree {
namespace {

using linear::Format;

PackedMatrix pack_matrix(const MatrixPlan& plan, std::span<const File> files, const CpuFeatures& cpu,
                         ThreadPool& pool) {
  std::vector<std::unique_ptr<RowSource>> opened;
  for (const TensorDesc* tensor : plan.tensors) opened.push_back(open_rows(*tensor, files));
  if (plan.interleaved)
    opened = [&] {
      std::vector<std::unique_ptr<RowSource>> both = std::move(opened);
      std::vector<std::unique_ptr<RowSource>> one;
      one.push_back(interleave_rows(*both[0], *both[1]));
      one.push_back(std::move(both[0]));  // kept alive behind the view
      one.push_back(std::move(both[1]));
      return one;
    }();
  std::vector<const RowSource*> parts;
  for (const auto& source : opened) parts.push_back(source.get());
  if (plan.interleaved) parts.resize(1);
  PackOptions options;
  options.format = plan.format;
  options.layout = plan.layout;
  try {
    return pack(parts, options, cpu, pool);
  } catch (const Error& error) {
    throw Error(error.code(), "tensor " + plan.tensors[0]->name + ": " + error.what());
  }
}

std::vector<float> read_vector(const VectorPlan& plan, std::span<const File> files) {
  const std::unique_ptr<RowSource> source = open_rows(*plan.tensor, files);
  if (source->rows() * source->cols() != plan.length) {
    throw Error(ErrorCode::corrupt_data,
                "tensor " + plan.tensor->name + " has another length than the configuration wants");
  }
  std::vector<float> values(plan.length);
  source->read_f32(0, source->rows(), values.data());
  return values;
}

PackedWeights pack_all(const ModelDescription& model, const WeightPlan& plan, const CpuFeatures& cpu,
                       ThreadPool& pool, const LoadProgress& progress) {
  std::vector<File> files;
  files.reserve(model.files.size());
  for (const std::string& path : model.files) files.push_back(File::open(path));
  uint64_t total = 0, done = 0;
  for (const MatrixPlan& m : plan.matrices) total += m.source_bytes();
  PackedWeights weights;
  for (const VectorPlan& v : plan.vectors) weights.vectors.push_back(read_vector(v, files));
  for (const MatrixPlan& m : plan.matrices) {
    weights.matrices.push_back(pack_matrix(m, files, cpu, pool));
    done += m.source_bytes();
    if (progress) progress(done, total);
  }
  return weights;
}

void count(const linear::Matrix& m, uint64_t elements, bool decoded, WeightStatistics& statistics) {
  statistics.bytes += m.bytes;
  if (decoded) statistics.decode_bytes += m.bytes;
  statistics.dense_f32_bytes += elements * sizeof(float);
  statistics.elements += elements;
  if (m.layout != linear::Layout::dense) statistics.zeros += elements - std::min(elements, m.stored);
  std::string name = linear::name_of(m.format);
  if (m.layout != linear::Layout::dense) name += std::string("-") + linear::name_of(m.layout);
  statistics.formats[name] += m.bytes;
}

// Puts packed matrices and vectors in their places.
ModelWeights assemble(const ModelConfig& c, const WeightPlan& plan, PackedWeights packed,
                      const CpuFeatures& cpu) {
  ModelWeights weights;
  weights.layers.resize(c.layers);
  for (size_t i = 0; i < plan.matrices.size(); ++i) {
    const MatrixPlan& m = plan.matrices[i];
    uint64_t elements = 0;
    for (const TensorDesc* tensor : m.tensors) elements += tensor->shape[0] * tensor->shape[1];
    count(packed.matrices[i].matrix(), elements, m.place != MatrixPlan::Place::embedding, weights.statistics);
    LayerWeights& layer = weights.layers[m.layer];
    PackedMatrix& matrix = packed.matrices[i];
    switch (m.place) {
      case MatrixPlan::Place::embedding:
        weights.embedding = std::move(matrix);
        break;
      case MatrixPlan::Place::head:
        weights.head.add(std::move(matrix), cpu);
        break;
      case MatrixPlan::Place::qkv:
        layer.qkv.add(std::move(matrix), cpu);
        break;
      case MatrixPlan::Place::output:
        layer.output.add(std::move(matrix), cpu);
        break;
      case MatrixPlan::Place::gate_up:
        layer.gate_up.add(std::move(matrix), cpu);
        layer.interleaved = m.interleaved;
        if (m.interleaved) layer.gate_up.together = 2;
        break;
      case MatrixPlan::Place::down:
        layer.down.add(std::move(matrix), cpu);
        break;
    }
  }
  size_t next = 0;
  const auto take = [&] {
    weights.statistics.bytes += packed.vectors[next].size() * sizeof(float);
    weights.statistics.decode_bytes += packed.vectors[next].size() * sizeof(float);
    return std::move(packed.vectors[next++]);
  };
  weights.final_norm = take();
  for (LayerWeights& layer : weights.layers) {
    layer.attention_norm = take();
    layer.ffn_norm = take();
    for (int part = 0; c.qkv_bias && part < 3; ++part) {
      const std::vector<float> bias = take();
      layer.qkv.bias.insert(layer.qkv.bias.end(), bias.begin(), bias.end());
    }
  }
  return weights;
}

}  // namespace

void Projection::add(PackedMatrix packed, const CpuFeatures& cpu) {
  const linear::Matrix& m = packed.matrix();
  Part part;
  part.column = out;
  part.plan = linear::make_plan(m, cpu);
  in = m.cols;
  out += m.rows;
  switch (linear::input_kind(m.format)) {
    case linear::InputKind::f32:
      wants_f32 = true;
      break;
    case linear::InputKind::bf16:
      wants_bf16 = true;
      break;
    case linear::InputKind::i8:
      wants_i8 = true;
      break;
  }
  if (m.format == Format::i4g32) sum_groups[0] = 32;
  if (m.format == Format::i4g128) sum_groups[1] = 128;
  part.packed = std::move(packed);
  parts.push_back(std::move(part));
}

void Projection::share(int threads) {
  for (Part& part : parts) {
    part.shares.clear();
    for (int t = 0; t < threads; ++t)
      part.shares.push_back(linear::share_of(part.packed.matrix(), t, threads, together));
  }
}

uint64_t Projection::bytes() const {
  uint64_t bytes = 0;
  for (const Part& part : parts) bytes += part.packed.matrix().bytes;
  return bytes;
}

ModelWeights load_weights(const ModelDescription& model, const WeightOptions& options, const CpuFeatures& cpu,
                          ThreadPool& pool, const LoadProgress& progress) {
  const WeightPlan plan = plan_weights(model, options);
  PackedWeights packed;
  std::vector<std::string> warnings;
  bool cached = false;
  std::string key, path;
  if (!options.cache_folder.empty()) {
    key = packed_cache_key(model, options, plan);
    path = packed_cache_path(options.cache_folder, key);
    try {
      cached = read_packed_cache(path, key, plan, packed, pool, progress);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::out_of_memory) throw;
      warnings.push_back(path + " is not used and will be written again (" + error.what() + ")");
      packed = {};
    }
  }
  if (!cached) {
    packed = pack_all(model, plan, cpu, pool, progress);
    if (!options.cache_folder.empty()) {
      try {
        write_packed_cache(path, key, packed);
      } catch (const Error& error) {
        warnings.push_back(std::string("packed weights are not cached, the next start packs again: ") +
                           error.what());
      }
    }
  }
  ModelWeights weights = assemble(model.config, plan, std::move(packed), cpu);
  weights.head.share(pool.size());
  for (LayerWeights& layer : weights.layers) {
    for (Projection* p : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) p->share(pool.size());
  }
  weights.statistics.from_cache = cached;
  weights.warnings = std::move(warnings);
  return weights;
}

}  // namespace filigree
