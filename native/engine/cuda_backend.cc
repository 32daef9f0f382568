#include <algorithm>
#include <cstring>

#include "base/status.h"
#include "base/thread_pool.h"
#include "cuda/runner.h"
#include "engine/backend.h"

namespace filigree {
namespace {

// Rows that go through the layers together: prompts are multiplied densely, and larger pieces fill the device better.
constexpr uint32_t kMostRows = 1024, kMostLogitRows = 32;
// Below so many zeros the dense product of the library is faster for one token, too.
constexpr double kMinZeros = 0.35, kNever = 2;
// Least memory of the device that the KV cache leaves to others.
constexpr uint64_t kOtherBytes = uint64_t{1} << 30;

cuda::KvElement kv_element(KvType type) {
  if (type == KvType::f16) return cuda::KvElement::f16;
  if (type == KvType::bf16) return cuda::KvElement::bf16;
  throw Error(ErrorCode::unsupported, "on a GPU the KV cache is f16 or bf16 (--kv)");
}

template <class T>
cuda::DeviceBuffer uploaded(const std::vector<T>& values) {
  cuda::DeviceBuffer out(values.size() * sizeof(T), "weights");
  if (!values.empty()) out.upload(values.data(), values.size() * sizeof(T));
  return out;
}

class CudaBackend final : public Backend {
 public:
  CudaBackend(const ModelDescription& model, const EngineOptions& options, const CpuFeatures& cpu,
              ThreadPool& pool, const LoadProgress& progress) {
    const ModelConfig& c = model.config;
    cuda::DeviceInfo device;
    std::string obstacle;
    if (!cuda::find_device(&device, &obstacle)) throw Error(ErrorCode::unsupported, obstacle);
    cuda::DecoderShape shape;
    shape.kv = kv_element(options.kv);
    shape.dependent_launch = device.major >= 9;
    const uint32_t group = c.heads / c.kv_heads;
    if (c.head_dim % 8 != 0 || c.head_dim > 256 || group > 8)
      throw Error(
          ErrorCode::unsupported,
          "on a GPU the head dimension is a multiple of 8 up to 256, with at most 8 query heads a key head");
    shape.deterministic = options.deterministic;
    shape.shared_bytes = device.shared_bytes;
    matrices_.device = {device.multiprocessors, device.shared_bytes};
    const uint64_t block_bytes = cuda::Runner::kv_bytes_per_block(c.layers, c.kv_heads, c.head_dim);
    info_.kv_blocks = kv_block_count(block_bytes, options);

    // Both devices pack from one form: dense, in the model's formats. The device then makes its own layouts.
    WeightOptions dense = options.weights;
    dense.dense = true;
    dense.isa = "cuda";
    ModelWeights weights = load_weights(model, dense, cpu, pool, progress);
    info_.warnings = std::move(weights.warnings);
    if (options.weights.matrices == WeightChoice::f32)
      info_.warnings.push_back("on a GPU f32 weights are held as bf16");
    std::string why;
    std::unique_ptr<cuda::Blas> blas = cuda::Blas::open(&why);
    if (!blas) info_.warnings.push_back(why);
    matrices_.have_blas = blas != nullptr;
    matrices_.min_zeros = options.weights.dense ? kNever : kMinZeros;
    matrices_.deterministic = options.deterministic;

    info_.weights = weights.statistics;
    info_.weights.bytes = info_.weights.decode_bytes = 0;
    info_.weights.formats.clear();
    info_.weights.zeros = 0;
    std::vector<cuda::DeviceLayer> layers;
    for (LayerWeights& layer : weights.layers) {
      cuda::DeviceLayer to;
      to.attention_norm = uploaded(layer.attention_norm);
      to.ffn_norm = uploaded(layer.ffn_norm);
      to.qkv = take(layer.qkv);
      to.output = take(layer.output);
      to.gate_up = take(layer.gate_up);
      to.gate_up.interleaved = layer.interleaved;
      to.down = take(layer.down);
      layers.push_back(std::move(to));
    }
    cuda::DeviceBuffer embedding = embedding_rows(weights.embedding_matrix());
    info_.weights.bytes += embedding.size();
    cuda::DeviceProjection head = take(weights.head);

    shape.hidden = c.hidden, shape.layers = c.layers, shape.heads = c.heads, shape.kv_heads = c.kv_heads;
    shape.head_dim = c.head_dim, shape.vocabulary = c.vocabulary, shape.norm_eps = c.norm_eps;
    shape.sliding_window = c.sliding_window;
    shape.ffn_cols = layers.empty() ? 0 : layers[0].down.parts[0].matrix.cols();
    const RopeFrequencies rope = build_rope_frequencies(c.rope, options.max_model_len);
    shape.inv_freq = rope.inv_freq;
    shape.attention_scale = rope.attention_scale;
    max_rows_ = std::min(kMostRows, static_cast<uint32_t>(options.max_batched_tokens));
    max_logit_rows_ = kMostLogitRows;
    shape.max_rows = max_rows_, shape.max_logit_rows = max_logit_rows_;
    shape.max_positions = static_cast<uint32_t>(options.max_model_len);
    const EngineOptions fitting = within_free_memory(options);
    if (fitting.kv_bytes < options.kv_bytes) {
      info_.kv_blocks = kv_block_count(block_bytes, fitting);
      info_.warnings.push_back("the GPU has " + std::to_string(fitting.kv_bytes >> 20) +
                               " MiB left for the KV cache, and not the " +
                               std::to_string(options.kv_bytes >> 20) + " MiB asked for");
    }
    shape.blocks = info_.kv_blocks;
    runner_ =
        std::make_unique<cuda::Runner>(std::move(shape), std::move(embedding), uploaded(weights.final_norm),
                                       std::move(head), std::move(layers), std::move(blas));
    info_.device = device.name;
    info_.kv_bytes = runner_->kv_bytes();
    info_.kv_bytes_per_token = block_bytes / KvLayout::block_tokens;
    info_.workspace_bytes = runner_->workspace_bytes();
  }

  void copy_block(int32_t from, int32_t to) override { runner_->copy_block(from, to); }

  void forward(std::span<const Chunk> chunks) override {
    runs_.clear();
    for (const Chunk& chunk : chunks) runs_.push_back({chunk.tokens, chunk.position, chunk.blocks});
    runner_->forward(runs_);
  }

  const float* logits(std::span<const uint32_t> rows) override { return runner_->logits(rows); }
  void final_state(uint32_t row, float* out) override { runner_->final_state(row, out); }

 private:
  // Moves a projection to the device; the host's copy is freed part by part.
  cuda::DeviceProjection take(Projection& from) {
    cuda::DeviceProjection to;
    to.out = from.out;
    to.bias = uploaded(from.bias);
    for (Projection::Part& part : from.parts) {
      const linear::Matrix& m = part.packed.matrix();
      to.parts.push_back({cuda::DeviceMatrix(m, matrices_), part.column});
      const cuda::DeviceMatrix& matrix = to.parts.back().matrix;
      info_.weights.bytes += matrix.bytes();
      info_.weights.decode_bytes += matrix.decode_bytes();
      info_.weights.zeros += static_cast<uint64_t>((1 - matrix.density()) * static_cast<double>(m.rows) *
                                                   static_cast<double>(m.cols));
      info_.weights.formats[format_name(m.format, matrix.sparse())] += matrix.bytes();
      part.packed = {};
    }
    return to;
  }

  // Dense weights are held as bf16; that they were rounded to fewer bits before still shows.
  static std::string format_name(linear::Format format, bool sparse) {
    const std::string name = linear::name_of(format);
    if (sparse) return name + "-sparse";
    return format == linear::Format::f32 || format == linear::Format::bf16 ? "bf16" : name + "-as-bf16";
  }

  // What the weights leave of the device's memory bounds the cache; workspaces, graphs and the library need a share, too.
  static EngineOptions within_free_memory(EngineOptions options) {
    size_t free = 0, total = 0;
    cuda::check(cudaMemGetInfo(&free, &total), "asking for free memory");
    const uint64_t others = std::max<uint64_t>(kOtherBytes, total / 16);
    options.kv_bytes = std::min<uint64_t>(options.kv_bytes, free > others ? free - others : 0);
    return options;
  }

  cuda::DeviceBuffer embedding_rows(const linear::Matrix& m) {
    const cuda::DeviceMatrix dense(m, {matrices_.device, true, kNever, false});
    cuda::DeviceBuffer out(size_t{m.rows} * m.cols * 2, "the embedding");
    cuda::check(cudaMemcpy(out.data(), dense.dense(), out.size(), cudaMemcpyDeviceToDevice), "the embedding");
    return out;
  }

  cuda::MatrixOptions matrices_;
  std::unique_ptr<cuda::Runner> runner_;
  std::vector<cuda::RowRun> runs_;
};

}  // namespace

std::string cuda_obstacle() {
  cuda::DeviceInfo device;
  std::string obstacle;
  cuda::find_device(&device, &obstacle);
  return obstacle;
}

std::unique_ptr<Backend> make_cuda_backend(const ModelDescription& model, const EngineOptions& options,
                                           const CpuFeatures& cpu, ThreadPool& pool,
                                           const LoadProgress& progress) {
  return std::make_unique<CudaBackend>(model, options, cpu, pool, progress);
}

}  // namespace filigree
