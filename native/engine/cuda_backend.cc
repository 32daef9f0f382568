#include <algorithm>

#include "base/status.h"
#include "base/thread_pool.h"
#include "cuda/runner.h"
#include "cuda/tune.h"
#include "engine/backend.h"
#include "engine/partition.h"
#include "kernels/sample/sample.h"

namespace filigree {
namespace {

// Rows that go through the layers together: prompts are multiplied densely, and larger pieces fill the device better.
constexpr uint32_t kMostRows = 1024, kMostLogitRows = 32;
// Below so many zeros the dense product of the library is faster for one token, too.
constexpr double kMinZeros = 0.35, kNever = 2;
static_assert(cuda::kMostLargest == kMostDigested && cuda::kDigestBlock == kVocabularyBlock);

cuda::KvElement kv_element(KvType type) {
  if (type == KvType::f16) return cuda::KvElement::f16;
  if (type == KvType::bf16) return cuda::KvElement::bf16;
  if (type == KvType::i8) return cuda::KvElement::i8;
  if (type == KvType::fp8) return cuda::KvElement::e4m3;
  throw Error(ErrorCode::unsupported, "on a GPU the KV cache is f16, bf16, i8 or fp8 (--kv)");
}

template <class T>
cuda::DeviceBuffer uploaded(const std::vector<T>& values) {
  cuda::DeviceBuffer out(values.size() * sizeof(T), "weights");
  if (!values.empty()) out.upload(values.data(), values.size() * sizeof(T));
  return out;
}

// Dense weights are held as bf16; that they were rounded to fewer bits before still shows.
std::string format_name(linear::Format format, bool sparse) {
  const std::string name = linear::name_of(format);
  if (sparse) return name + "-sparse";
  return format == linear::Format::f32 || format == linear::Format::bf16 ? "bf16" : name + "-as-bf16";
}

// A model's weights, or one device's share of them, on their way there. Used by the device's thread.
struct DeviceWeights {
  cuda::MatrixOptions matrices;
  std::unique_ptr<cuda::Blas> blas;
  WeightStatistics statistics;
  cuda::DeviceBuffer embedding, final_norm;
  cuda::DeviceProjection head;
  std::vector<cuda::DeviceLayer> layers;

  cuda::DeviceProjection take(const Projection& from) {
    cuda::DeviceProjection to;
    to.out = from.out;
    to.bias = uploaded(from.bias);
    for (const Projection::Part& part : from.parts) {
      const linear::Matrix& m = part.packed.matrix();
      to.parts.push_back({cuda::DeviceMatrix(m, matrices), part.column});
      const cuda::DeviceMatrix& matrix = to.parts.back().matrix;
      statistics.bytes += matrix.bytes();
      statistics.decode_bytes += matrix.decode_bytes();
      statistics.zeros += static_cast<uint64_t>((1 - matrix.density()) * static_cast<double>(m.rows) *
                                                static_cast<double>(m.cols));
      statistics.formats[format_name(m.format, matrix.sparse())] += matrix.bytes();
    }
    return to;
  }

  void take_layer(const LayerWeights& from) {
    cuda::DeviceLayer to;
    to.attention_norm = uploaded(from.attention_norm);
    to.ffn_norm = uploaded(from.ffn_norm);
    to.qkv = take(from.qkv);
    to.output = take(from.output);
    to.gate_up = take(from.gate_up);
    to.gate_up.interleaved = from.interleaved;
    to.down = take(from.down);
    layers.push_back(std::move(to));
  }

  void take_embedding(const linear::Matrix& m) {
    const cuda::DeviceMatrix dense(m, {matrices.device, true, kNever, false});
    embedding = cuda::DeviceBuffer(size_t{m.rows} * m.cols * 2, "the embedding");
    cuda::check(cudaMemcpy(embedding.data(), dense.dense(), embedding.size(), cudaMemcpyDeviceToDevice),
                "the embedding");
    statistics.bytes += embedding.size();
  }
};

// One device, or several that each hold a part of every layer (partition.h) and a thread.
class CudaBackend final : public Backend {
 public:
  CudaBackend(const ModelDescription& model, const EngineOptions& options, const CpuFeatures& cpu,
              ThreadPool& pool, const LoadProgress& progress)
      : ranks_(options.tensor_parallel), threads_(static_cast<int>(ranks_)), runners_(ranks_) {
    const ModelConfig& c = model.config;
    std::vector<cuda::DeviceInfo> devices;
    std::string obstacle;
    if (!cuda::find_devices(ranks_, &devices, &obstacle)) throw Error(ErrorCode::unsupported, obstacle);
    if (c.head_dim % 8 != 0 || c.head_dim > 256 || c.heads / c.kv_heads > cuda::kTileQueries)
      throw Error(ErrorCode::unsupported,
                  "on a GPU the head dimension is a multiple of 8 up to 256, with at most " +
                      std::to_string(cuda::kTileQueries) + " query heads a key head");
    Partition::check_heads(c, ranks_);
    if (options.deterministic && ranks_ > 2)
      throw Error(
          ErrorCode::unsupported,
          "--deterministic with --tensor-parallel above 2: in which order more sums are added is NCCL's");
    const uint64_t block_bytes =
        cuda::Runner::kv_bytes_per_block(kv_element(options.kv), c.layers, c.kv_heads, c.head_dim);
    info_.kv_blocks = kv_block_count(block_bytes, options);
    std::vector<std::unique_ptr<cuda::Collective>> collectives(ranks_);
    if (ranks_ > 1) collectives = cuda::Collective::open(ranks_);
    on_each([](uint32_t) { cuda::check(cudaFree(nullptr), "starting the GPU"); });

    // Both devices pack from one form: dense, in the model's formats. The device then makes its own layouts.
    WeightOptions dense = options.weights;
    dense.dense = true;
    dense.isa = "cuda";
    ModelWeights weights = load_weights(model, dense, cpu, pool, progress);
    info_.warnings = std::move(weights.warnings);
    if (options.weights.matrices == WeightChoice::f32)
      info_.warnings.push_back("on a GPU f32 weights are held as bf16");
    try {
      plans_ = cuda::PlanTable::parse(options.gpu_plans);
    } catch (const Error& error) {
      info_.warnings.push_back(
          std::string(error.what()) +
          "; none of them is used (bench kernels --device cuda --tune writes them anew)");
    }
    std::vector<DeviceWeights> parts = take_weights(c, weights, options, devices, cpu);

    info_.kv_blocks = fitting_blocks(block_bytes / ranks_, options);
    max_rows_ = std::min(kMostRows, static_cast<uint32_t>(options.max_batched_tokens));
    max_logit_rows_ = kMostLogitRows;
    asynchronous_ = true;
    vocabulary_ = c.vocabulary;
    logits_ = cuda::PinnedBuffer(size_t{max_logit_rows_} * vocabulary_ * sizeof(float));
    candidates_.resize(size_t{max_logit_rows_} * ranks_ * cuda::kMostLargest);
    const RopeFrequencies rope = build_rope_frequencies(c.rope, options.max_model_len);
    on_each([&](uint32_t rank) {
      DeviceWeights& part = parts[rank];
      cuda::DecoderShape shape;
      shape.kv = kv_element(options.kv);
      shape.dependent_launch = devices[rank].major >= 9;
      shape.deterministic = options.deterministic;
      shape.multiprocessors = devices[rank].multiprocessors;
      shape.hidden = c.hidden, shape.layers = c.layers, shape.norm_eps = c.norm_eps;
      shape.heads = c.heads / ranks_, shape.kv_heads = c.kv_heads / ranks_, shape.head_dim = c.head_dim;
      shape.sliding_window = c.sliding_window;
      shape.ffn_cols = part.layers.empty() ? 0 : part.layers[0].down.parts[0].matrix.cols();
      shape.inv_freq = rope.inv_freq;
      shape.attention_scale = rope.attention_scale;
      shape.max_rows = max_rows_, shape.max_logit_rows = max_logit_rows_;
      shape.max_positions = static_cast<uint32_t>(options.max_model_len);
      shape.blocks = info_.kv_blocks;
      runners_[rank] = std::make_unique<cuda::Runner>(
          std::move(shape), std::move(part.embedding), std::move(part.final_norm), std::move(part.head),
          std::move(part.layers), std::move(part.blas), std::move(collectives[rank]));
    });
    info_.device = (ranks_ > 1 ? std::to_string(ranks_) + " x " : "") + devices[0].name;
    for (const auto& runner : runners_) {
      info_.kv_bytes += runner->kv_bytes();
      info_.workspace_bytes += runner->workspace_bytes();
    }
    info_.kv_bytes_per_token = block_bytes / KvLayout::block_tokens;
  }

  ~CudaBackend() override {
    // Ends of a sum over devices meet once more when they close.
    try {
      on_each([&](uint32_t rank) { runners_[rank].reset(); });
    } catch (const std::exception&) {  // a device that is lost stays so
    }
  }

  void copy_block(int32_t from, int32_t to) override {
    on_each([&](uint32_t rank) { runners_[rank]->copy_block(from, to); });
  }

  void forward(std::span<const Chunk> chunks) override {
    runs_.clear();
    for (const Chunk& chunk : chunks) runs_.push_back({chunk.tokens, chunk.position, chunk.blocks});
    on_each([&](uint32_t rank) { runners_[rank]->forward(runs_); });
  }

  std::span<const LogitsRow> logits(std::span<const LogitsWanted> wanted) override {
    logit_rows_.clear(), digests_wanted_.clear(), answer_.clear(), unranked_.clear();
    for (const LogitsWanted& w : wanted) {
      logit_rows_.push_back(w.row);
      // The blocks of a row that lies on several devices are nobody's.
      const bool summed = ranks_ == 1 && vocabulary_ <= size_t{cuda::kDigestBlock} * cuda::kMostDigestBlocks;
      const uint32_t largest = w.digest.scale == 0 || summed ? w.digest.largest : 0;
      digests_wanted_.push_back({largest, w.digest.scale, w.digest.uniform});
    }
    on_each([&](uint32_t rank) {
      runners_[rank]->logits(logit_rows_, digests_wanted_, logits_.as<float>() + first_logit_[rank],
                             vocabulary_);
    });
    for (uint32_t i = 0; i < wanted.size(); ++i) {
      answer_.push_back({nullptr, digest(i)});
      if (!answer_[i].digest.largest.empty()) continue;
      answer_[i].all = logits_.as<float>() + i * vocabulary_;
      if (digests_wanted_[i].largest > 0) unranked_.push_back(i);
    }
    if (!unranked_.empty()) complete(unranked_);
    return answer_;
  }

  void complete(std::span<const uint32_t> rows) override {
    on_each([&](uint32_t rank) {
      runners_[rank]->fetch_logits(rows, logits_.as<float>() + first_logit_[rank], vocabulary_);
    });
    for (const uint32_t i : rows) answer_[i].all = logits_.as<float>() + i * vocabulary_;
  }

  void final_state(uint32_t row, float* out) override { runners_[0]->final_state(row, out); }

 private:
  // What is wanted of a row, from all devices; nothing where one of them could not say.
  LogitDigest digest(uint32_t row) {
    const cuda::DigestWanted& wanted = digests_wanted_[row];
    if (wanted.largest == 0) return {};
    Candidate* const begin = candidates_.data() + size_t{row} * ranks_ * cuda::kMostLargest;
    Candidate* end = begin;
    for (uint32_t rank = 0; rank < ranks_; ++rank) {
      const cuda::LogitDigest& share = runners_[rank]->digest(row);
      if (share.count == 0) return {};
      for (uint32_t i = 0; i < share.count; ++i)
        *end++ = {share.largest[i].logit, share.largest[i].id + static_cast<int32_t>(first_logit_[rank])};
    }
    if (ranks_ > 1) std::sort(begin, end, likelier);
    LogitDigest out;
    out.largest = {begin, std::min<size_t>(wanted.largest, static_cast<size_t>(end - begin))};
    if (wanted.scale == 0) return out;
    const cuda::LogitDigest& whole = runners_[0]->digest(row);
    out.total = whole.total, out.rest = whole.rest, out.block = whole.block;
    if (wanted.uniform >= 0)
      out.logits = {whole.logits, std::min<size_t>(cuda::kDigestBlock, vocabulary_ - whole.block)};
    return out;
  }

  // work(rank) on every device's thread; the first is the caller's. One that fails lets the others stop waiting for it.
  template <class Work>
  void on_each(const Work& work) {
    threads_.run([&](int thread, int) {
      const uint32_t rank = static_cast<uint32_t>(thread);
      try {
        cuda::check(cudaSetDevice(thread), "choosing the GPU");
        work(rank);
      } catch (...) {
        if (runners_[rank]) runners_[rank]->cancel();
        throw;
      }
    });
  }

  // Moves the weights to the devices; the host's are freed layer by layer.
  std::vector<DeviceWeights> take_weights(const ModelConfig& c, ModelWeights& weights,
                                          const EngineOptions& options,
                                          const std::vector<cuda::DeviceInfo>& devices,
                                          const CpuFeatures& cpu) {
    std::vector<DeviceWeights> parts(ranks_);
    std::vector<std::string> whys(ranks_);
    const Partition partition(c, weights, ranks_);
    on_each([&](uint32_t rank) {
      DeviceWeights& part = parts[rank];
      part.blas = cuda::Blas::open(&whys[rank]);
      const auto tuned = plans_.gpus.find(devices[rank].name);
      part.matrices.device = {devices[rank].multiprocessors, devices[rank].shared_bytes,
                              tuned == plans_.gpus.end() ? nullptr : &tuned->second};
      part.matrices.have_blas = part.blas != nullptr;
      part.matrices.min_zeros = options.weights.dense ? kNever : kMinZeros;
      part.matrices.deterministic = options.deterministic;
    });
    if (!whys[0].empty()) info_.warnings.push_back(whys[0]);
    for (LayerWeights& layer : weights.layers) {
      on_each([&](uint32_t rank) {
        parts[rank].take_layer(ranks_ == 1 ? std::move(layer) : partition.layer(layer, rank, cpu));
      });
      layer = {};
    }
    on_each([&](uint32_t rank) {
      DeviceWeights& part = parts[rank];
      part.take_embedding(weights.embedding_matrix());
      part.head = ranks_ == 1 ? part.take(weights.head) : part.take(partition.head(weights.head, rank, cpu));
      part.final_norm = uploaded(weights.final_norm);
    });
    info_.weights = weights.statistics;
    info_.weights.bytes = info_.weights.decode_bytes = info_.weights.zeros = 0;
    info_.weights.formats.clear();
    for (uint32_t rank = 0; rank < ranks_; ++rank) {
      const WeightStatistics& s = parts[rank].statistics;
      info_.weights.bytes += s.bytes;
      info_.weights.decode_bytes += s.decode_bytes;
      info_.weights.zeros += s.zeros;
      for (const auto& [format, bytes] : s.formats) info_.weights.formats[format] += bytes;
      first_logit_.push_back(partition.vocabulary(rank).begin);
    }
    return parts;
  }

  // What the weights leave of a device's memory bounds the cache; workspaces, graphs and libraries need a share, too.
  uint32_t fitting_blocks(uint64_t device_block_bytes, const EngineOptions& options) {
    std::vector<uint64_t> room(ranks_);
    on_each([&](uint32_t rank) {
      size_t free = 0, total = 0;
      cuda::check(cudaMemGetInfo(&free, &total), "asking for free memory");
      const uint64_t others = cuda::reserved_bytes(total);
      room[rank] = free > others ? free - others : 0;
    });
    const uint64_t bytes = *std::min_element(room.begin(), room.end());
    const uint64_t blocks = std::min<uint64_t>(info_.kv_blocks, bytes / device_block_bytes);
    const uint64_t needed =
        (static_cast<uint64_t>(options.max_model_len) + KvLayout::block_tokens - 1) / KvLayout::block_tokens;
    const std::string left = "the weights leave " + std::to_string(bytes >> 20) + " MiB of " +
                             (ranks_ > 1 ? "each GPU" : "the GPU") + " for the KV cache";
    if (blocks < needed)
      throw Error(ErrorCode::out_of_memory, left + ", and one sequence of " +
                                                std::to_string(options.max_model_len) + " tokens takes " +
                                                std::to_string((needed * device_block_bytes >> 20) + 1) +
                                                " MiB; lower --max-model-len or take --kv i8");
    if (blocks < info_.kv_blocks && !options.kv_at_most)
      info_.warnings.push_back(left + ", and not the " +
                               std::to_string(uint64_t{info_.kv_blocks} * device_block_bytes >> 20) +
                               " MiB asked for");
    return static_cast<uint32_t>(blocks);
  }

  uint32_t ranks_;
  cuda::PlanTable plans_;  // the matrices refer to it
  ThreadPool threads_;     // one a device
  std::vector<std::unique_ptr<cuda::Runner>> runners_;
  std::vector<size_t> first_logit_;  // of each device's share of the vocabulary
  size_t vocabulary_ = 0;
  cuda::PinnedBuffer logits_;          // [max_logit_rows][vocabulary]
  std::vector<Candidate> candidates_;  // [max_logit_rows][ranks][kMostLargest]
  std::vector<uint32_t> logit_rows_, unranked_;
  std::vector<cuda::DigestWanted> digests_wanted_;
  std::vector<LogitsRow> answer_;
  std::vector<cuda::RowRun> runs_;
};

}  // namespace

std::string cuda_obstacle() {
  std::vector<cuda::DeviceInfo> devices;
  std::string obstacle;
  cuda::find_devices(1, &devices, &obstacle);
  return obstacle;
}

std::vector<Gpu> usable_gpus() {
  std::vector<cuda::DeviceInfo> devices;
  std::string obstacle;
  std::vector<Gpu> gpus;
  if (!cuda::find_devices(0, &devices, &obstacle)) return gpus;
  for (const cuda::DeviceInfo& d : devices) {
    const uint64_t others = cuda::reserved_bytes(d.total_bytes);
    gpus.push_back({d.name, d.major, d.minor, d.total_bytes, d.free_bytes,
                    d.free_bytes > others ? d.free_bytes - others : 0});
  }
  return gpus;
}

std::vector<GpuLaunch> tune_gpu(const linear::Matrix& matrix, std::string& plans) {
  std::vector<cuda::DeviceInfo> devices;
  std::string obstacle;
  if (!cuda::find_devices(1, &devices, &obstacle)) throw Error(ErrorCode::unsupported, obstacle);
  cuda::PlanTable table = cuda::PlanTable::parse(plans);
  cuda::MatrixOptions options;
  options.device = {devices[0].multiprocessors, devices[0].shared_bytes};
  options.min_zeros = kMinZeros;
  std::vector<GpuLaunch> launches;
  for (const cuda::TunedLaunch& l : cuda::tune_tiles(matrix, options, table.gpus[devices[0].name]))
    launches.push_back({l.tokens, l.planned_us, l.best_us, l.layout});
  plans = table.text();
  return launches;
}

std::string nccl_obstacle() { return cuda::Collective::obstacle(); }

std::unique_ptr<Backend> make_cuda_backend(const ModelDescription& model, const EngineOptions& options,
                                           const CpuFeatures& cpu, ThreadPool& pool,
                                           const LoadProgress& progress) {
  return std::make_unique<CudaBackend>(model, options, cpu, pool, progress);
}

}  // namespace filigree
