#include "cuda/runner.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace filigree::cuda {
namespace {

// Most rows of a step that is replayed as a graph; the sizes that one is captured for.
constexpr uint32_t kBuckets[] = {1, 2, 4, 8, 16, 24, 32}, kMostDecoded = 32;

// From so many rows on attention has more blocks than fit beside a product's: started before that ends, they keep its last kernel from
// the multiprocessors (16 sequences of Llama-2-7B's shape on an H200: 6 % of a step).
constexpr uint32_t kCrowded = 8;

uint32_t bucket_of(uint32_t rows) {
  for (const uint32_t b : kBuckets) {
    if (rows <= b) return b;
  }
  return 0;
}

}  // namespace

Runner::Runner(DecoderShape shape, DeviceBuffer embedding, DeviceBuffer final_norm, DeviceProjection head,
               std::vector<DeviceLayer> layers, std::unique_ptr<Blas> blas,
               std::unique_ptr<Collective> collective)
    : shape_(std::move(shape)),
      embedding_(std::move(embedding)),
      final_norm_(std::move(final_norm)),
      head_(std::move(head)),
      layers_(std::move(layers)),
      blas_(std::move(blas)),
      collective_(std::move(collective)) {
  const DecoderShape& s = shape_;
  // Rows of whole buckets, so that a padded step fits.
  const uint32_t rows = std::max(s.max_rows, 32u), logit_rows = std::max(s.max_logit_rows, 32u);
  shape_.max_rows = rows, shape_.max_logit_rows = logit_rows;
  x_stride_ = round_up(s.hidden, kInputPadding);
  attended_stride_ = round_up(s.heads * s.head_dim, kInputPadding);
  ffn_stride_ = round_up(s.ffn_cols, kInputPadding);
  table_stride_ = ceil_div(s.max_positions, kBlockTokens);
  most_tables_ = rows;
  attention_.heads = s.heads;
  attention_.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  attention_.sliding_window = s.sliding_window;
  attention_.split_positions = std::max(512u, round_up(ceil_div(s.max_positions, 16u), kTilePositions));
  most_splits_ = ceil_div(s.max_positions, attention_.split_positions);
  decode_attention_ = !s.deterministic && decode_attention_fits(s.kv, s.head_dim);
  const uint32_t most_decode_splits =
      decode_attention_ ? std::min(kMostDecodeSplits, std::bit_ceil(ceil_div(s.max_positions, 64u))) : 0;

  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  const uint64_t page_bytes = kv_bytes_per_block(s.kv, s.layers, s.kv_heads, s.head_dim) / 2 * s.blocks;
  keys_ = DeviceBuffer(page_bytes, "the KV cache");
  values_ = DeviceBuffer(page_bytes, "the KV cache");
  inv_freq_ = workspace(s.inv_freq.size() * sizeof(float));
  inv_freq_.upload(s.inv_freq.data(), s.inv_freq.size() * sizeof(float));

  tables_at_ = (3 + sizeof(AttentionTile) / sizeof(int32_t)) * rows;
  const size_t step_bytes = (tables_at_ + size_t{most_tables_} * table_stride_) * sizeof(int32_t);
  step_ = workspace(step_bytes);
  host_step_ = PinnedBuffer(step_bytes);
  const auto rows_at = [&](int32_t* at) {
    return WritableStepRows{at, at + rows, at + 2 * rows, at + tables_at_, table_stride_};
  };
  rows_ = rows_at(step_.as<int32_t>()), host_rows_ = rows_at(host_step_.as<int32_t>());
  tiles_ = reinterpret_cast<const AttentionTile*>(step_.as<int32_t>() + 3 * rows);
  logit_rows_ = PinnedBuffer(logit_rows * sizeof(int32_t));
  digests_wanted_ = PinnedBuffer(logit_rows * sizeof(DigestWanted));
  digests_ = PinnedBuffer(logit_rows * sizeof(LogitDigest));

  size_t widest = 0, partial = 0, expanded = 0;
  const auto visit = [&](const DeviceProjection& p) {
    for (const DeviceProjection::Part& part : p.parts) {
      widest = std::max<size_t>(widest, part.matrix.rows());
      partial = std::max(partial, part.matrix.partial_bytes(32));
      expanded = std::max(expanded, part.matrix.expanded_bytes());
    }
  };
  for (const DeviceLayer& layer : layers_)
    visit(layer.qkv), visit(layer.output), visit(layer.gate_up), visit(layer.down);
  const size_t layer_widest = std::max<size_t>(widest, layers_.empty() ? 0 : layers_[0].gate_up.out);
  visit(head_);
  hidden_ = workspace(size_t{rows} * s.hidden * 4);
  normed_ = workspace(size_t{std::max(rows, logit_rows)} * x_stride_ * 2);
  norm_codes_ = workspace(size_t{std::max(rows, logit_rows)} * x_stride_);
  norm_scales_ = workspace(size_t{std::max(rows, logit_rows)} * x_stride_ / 256 * sizeof(float));
  qkv_ = workspace(size_t{rows} * layers_[0].qkv.out * 4);
  q_ = workspace(size_t{rows} * s.heads * s.head_dim * 4);
  attended_ = workspace(size_t{rows} * attended_stride_ * 2);
  ffn_ = workspace(size_t{rows} * ffn_stride_ * 2);
  wide_ = workspace(size_t{rows} * layer_widest * 2);
  partials_ = workspace(partial);
  expanded_ = workspace(expanded);
  logits_ = workspace(size_t{logit_rows} * head_.out * 4);
  if (collective_) sums_ = workspace(hidden_.size());
  state_ = workspace(size_t{s.hidden} * 4);
  attention_partials_ =
      workspace(attention_floats(attention_, s.head_dim,
                                 std::max({most_attention_slots(rows, most_splits_, attention_grid()),
                                           kMostDecoded * most_decode_splits, kMostDecoded * most_splits_})) *
                sizeof(float));
  arrivals_ = workspace(std::max(kMostDecoded * s.heads, rows * s.kv_heads) * sizeof(uint32_t));
  workspace_ = {blas_.get(), partials_.as<float>(), expanded_.data(), wide_.data(), true};
  check(cudaDeviceSynchronize(), "zeroing workspaces");  // on another stream than the steps'
}

Runner::~Runner() {
  drop_graphs();
  if (stream_) {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
}

void Runner::drop_graphs() {
  for (const auto& [key, graph] : graphs_) cudaGraphExecDestroy(graph);
  graphs_.clear();
}

// A sum over devices never ends if one of them fails: those that wait for it look up from time to time.
void Runner::wait(const char* what) {
  if (!collective_) return check(cudaStreamSynchronize(stream_), what);
  cudaError_t error;
  while ((error = cudaStreamQuery(stream_)) == cudaErrorNotReady) {
    if (!collective_->cancelled()) continue;
    drop_graphs();
    collective_->abort();
    throw Error(ErrorCode::internal, "another GPU of this model has failed");
  }
  cudaGetLastError();  // that it was not ready
  check(error, what);
}

DeviceBuffer Runner::workspace(size_t bytes) {
  workspace_bytes_ += bytes;
  return DeviceBuffer(bytes, "a workspace");
}

KvPages Runner::pages(uint32_t layer) const {
  const size_t layer_bytes = keys_.size() / shape_.layers;
  return {shape_.kv, shape_.kv_heads, shape_.head_dim, keys_.as<uint8_t>() + layer * layer_bytes,
          values_.as<uint8_t>() + layer * layer_bytes};
}

void Runner::copy_block(int32_t from, int32_t to) {
  check(cuda::copy_block(pages(0), keys_.size() / shape_.layers, shape_.layers, from, to, stream_),
        "copying a block");
}

void Runner::project(const DeviceProjection& p, const Input& x, Store store, void* out, uint32_t out_stride,
                     bool dependent) {
  DeviceMatrix::Workspace w = workspace_;
  w.dependent = dependent;
  const size_t element = store == Store::bf16 || store == Store::swiglu ? 2 : 4;
  for (const DeviceProjection::Part& part : p.parts) {
    const float* bias = p.bias.size() ? p.bias.as<float>() + part.column : nullptr;
    part.matrix.run(x, {store, static_cast<uint8_t*>(out) + part.column * element, out_stride, bias}, w,
                    stream_);
  }
}

void Runner::project_normed(const DeviceProjection& p, uint32_t rows, const int32_t* from,
                            const DeviceBuffer& norm, Store store, void* out, uint32_t out_stride,
                            bool first_dependent, bool dependent) {
  const auto all = [&](auto of) { return std::all_of(p.parts.begin(), p.parts.end(), of); };
  const uint32_t rounded = p.parts[0].matrix.rounded_columns(rows);
  const float *const h = hidden_.as<float>(), *const weight = norm.as<float>();
  Input x{rows, x_stride_, normed_.data()};
  if (!from && all([&](const DeviceProjection::Part& part) { return part.matrix.normalizes(rows); })) {
    x.hidden = h, x.norm = weight, x.norm_eps = shape_.norm_eps;
    dependent = first_dependent;
  } else if (rounded > 0 && all([&](const DeviceProjection::Part& part) {
               return part.matrix.rounded_columns(rows) == rounded;
             })) {
    check(rms_norm_rounded(h, from, rows, weight, shape_.norm_eps, shape_.hidden, norm_codes_.as<int8_t>(),
                           x_stride_, norm_scales_.as<float>(), rounded, first_dependent, stream_),
          "norm");
    x.data = norm_codes_.data(), x.scales = norm_scales_.as<float>(), x.scale_columns = rounded;
  } else {
    check(rms_norm(h, from, rows, weight, shape_.norm_eps, shape_.hidden, normed_.data(), x_stride_, nullptr,
                   first_dependent, stream_),
          "norm");
  }
  project(p, x, store, out, out_stride, dependent);
}

void Runner::project_residual(const DeviceProjection& p, const Input& x, bool dependent) {
  float* const h = hidden_.as<float>();
  if (!collective_) return project(p, x, Store::add, h, shape_.hidden, dependent);
  // Every device has the same residual stream; the first one's enters the sum.
  const bool first = collective_->rank() == 0;
  float* const mine = first ? h : sums_.as<float>();
  project(p, x, first ? Store::add : Store::f32, mine, shape_.hidden, dependent);
  collective_->add(mine, h, size_t{x.tokens} * shape_.hidden, stream_);
}

AttentionGrid Runner::attention_grid() const {
  return {shape_.heads / shape_.kv_heads, shape_.kv_heads, attention_.split_positions,
          attention_.sliding_window, shape_.multiprocessors};
}

void Runner::enqueue(uint32_t rows, uint32_t splits, uint32_t decode_positions, bool dependent) {
  const DecoderShape& s = shape_;
  // No kernel of ours: what follows a sum over devices does not start before it ends.
  const bool after_sum = dependent && !collective_;
  float* const h = hidden_.as<float>();
  const bool load = decode_positions > 0;
  check(load ? load_and_embed(host_rows_, rows_, rows, embedding_.data(), s.hidden, h, stream_)
             : embed(rows_, rows, embedding_.data(), s.hidden, h, false, stream_),
        "embedding");
  for (uint32_t l = 0; l < s.layers; ++l) {
    const DeviceLayer& layer = layers_[l];
    project_normed(layer.qkv, rows, nullptr, layer.attention_norm, Store::f32, qkv_.data(), layer.qkv.out,
                   l == 0 ? dependent && !load : after_sum, dependent);
    if (decode_positions > 0) {
      check(decode_attend(
                rows_, rows, attention_,
                {qkv_.as<float>(), layer.qkv.out, inv_freq_.as<float>(), s.attention_scale, decode_positions},
                pages(l), splits, attention_partials_.as<float>(), arrivals_.as<uint32_t>(), attended_.data(),
                attended_stride_, dependent && rows < kCrowded, stream_),
            "attention");
    } else {
      check(rotate_and_store(rows_, rows, qkv_.as<float>(), layer.qkv.out, s.heads, inv_freq_.as<float>(),
                             s.attention_scale, pages(l), q_.as<float>(), dependent, stream_),
            "rotary embedding");
      check(attend(rows_, {tiles_, static_cast<uint32_t>(plan_.tiles.size()), splits}, attention_,
                   q_.as<float>(), pages(l), attention_partials_.as<float>(), arrivals_.as<uint32_t>(),
                   attended_.data(), attended_stride_, dependent, stream_),
            "attention");
    }
    project_residual(layer.output, {rows, attended_stride_, attended_.data()}, dependent);
    if (layer.gate_up.interleaved) {
      project_normed(layer.gate_up, rows, nullptr, layer.ffn_norm, Store::swiglu, ffn_.data(), ffn_stride_,
                     after_sum, dependent);
    } else {
      project_normed(layer.gate_up, rows, nullptr, layer.ffn_norm, Store::bf16, wide_.data(),
                     layer.gate_up.out, after_sum, dependent);
      check(swiglu(wide_.data(), layer.gate_up.out, false, layer.gate_up.out / 2, rows, ffn_.data(),
                   ffn_stride_, dependent, stream_),
            "SwiGLU");
    }
    project_residual(layer.down, {rows, ffn_stride_, ffn_.data()}, dependent);
  }
}

template <class Enqueue>
void Runner::replay(uint64_t key, const Enqueue& launches) {
  auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    launches();  // once outside: kernels are loaded and the library chooses before anything is captured
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capturing a step");
    launches();
    check(cudaStreamEndCapture(stream_, &graph), "capturing a step");
    const cudaError_t error = cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    check(error, "instantiating a step");
    graphs_.emplace(key, exec);
    return;  // the launches outside have done the work
  }
  check(cudaGraphLaunch(found->second, stream_), "launching a step");
}

void Runner::forward(std::span<const RowRun> runs) {
  uint32_t count = 0, tables = 0;
  int32_t longest = 0;
  bool single = true;
  // What the step before still copies from this memory is over: logits() and final_state() wait, and so does this.
  wait("the step before");
  runs_.clear();
  for (const RowRun& run : runs) {
    const int32_t end = run.position + static_cast<int32_t>(run.tokens.size());
    runs_.push_back({count, static_cast<uint32_t>(run.tokens.size()), static_cast<uint32_t>(run.position)});
    std::memcpy(host_rows_.block_tables + size_t{tables} * table_stride_, run.blocks,
                ceil_div<size_t>(static_cast<size_t>(end), kBlockTokens) * sizeof(int32_t));
    for (size_t i = 0; i < run.tokens.size(); ++i, ++count) {
      host_rows_.tokens[count] = run.tokens[i];
      host_rows_.positions[count] = run.position + static_cast<int32_t>(i);
      host_rows_.tables[count] = static_cast<int32_t>(tables);
    }
    single = single && run.tokens.size() == 1;
    longest = std::max(longest, end);
    ++tables;
  }
  const uint32_t bucket = single ? bucket_of(count) : 0, padded = bucket ? bucket : count;
  for (uint32_t row = count; row < padded; ++row)
    host_rows_.tokens[row] = 0, host_rows_.positions[row] = -1, host_rows_.tables[row] = 0;
  // A graph serves contexts up to a power of two.
  const uint32_t reach = std::bit_ceil(std::max(static_cast<uint32_t>(longest), 64u));
  uint32_t splits = 1, split_positions = 0;
  if (bucket && decode_attention_) {
    split_positions = decode_split(bucket, shape_.kv_heads, reach, shape_.multiprocessors);
    splits = ceil_div(reach, split_positions);
  } else {
    if (bucket) {
      const uint32_t needed = ceil_div(static_cast<uint32_t>(longest), attention_.split_positions);
      plan_single_rows(host_rows_.positions, bucket, std::min(std::bit_ceil(needed), most_splits_), &plan_);
    } else {
      plan_attention(runs_, attention_grid(), &plan_);
    }
    std::memcpy(host_step_.as<int32_t>() + 3 * shape_.max_rows, plan_.tiles.data(),
                plan_.tiles.size() * sizeof(AttentionTile));
    splits = plan_.splits;
    check(cudaMemcpyAsync(step_.data(), host_step_.as<void>(),
                          (tables_at_ + size_t{tables} * table_stride_) * sizeof(int32_t),
                          cudaMemcpyHostToDevice, stream_),
          "the step's rows");
  }
  if (bucket) {
    replay(uint64_t{bucket} << 32 | (decode_attention_ ? reach : splits),
           [&] { enqueue(bucket, splits, split_positions, shape_.dependent_launch); });
  } else {
    enqueue(count, splits, 0, false);
  }
}

void Runner::enqueue_head(uint32_t rows, bool dependent) {
  const DecoderShape& s = shape_;
  project_normed(head_, rows, logit_rows_.as<int32_t>(), final_norm_, Store::f32, logits_.data(), head_.out,
                 dependent, dependent);
  check(digest_logits(logits_.as<float>(), rows, head_.out, digests_wanted_.as<DigestWanted>(),
                      digests_.as<LogitDigest>(), dependent, stream_),
        "digests of logits");
}

void Runner::copy_logits(uint32_t first, uint32_t count, float* out, size_t stride) {
  const size_t row = size_t{head_.out} * sizeof(float);
  check(cudaMemcpy2DAsync(out, stride * sizeof(float), logits_.as<float>() + size_t{first} * head_.out, row,
                          row, count, cudaMemcpyDeviceToHost, stream_),
        "logits");
}

void Runner::fetch_logits(std::span<const uint32_t> rows, float* out, size_t stride) {
  for (const uint32_t i : rows) copy_logits(i, 1, out + i * stride, stride);
  wait("logits");
}

void Runner::logits(std::span<const uint32_t> rows, std::span<const DigestWanted> wanted, float* out,
                    size_t stride) {
  const uint32_t count = static_cast<uint32_t>(rows.size());
  const uint32_t bucket = bucket_of(count), padded = bucket ? bucket : count;
  for (uint32_t i = 0; i < padded; ++i) {
    logit_rows_.as<int32_t>()[i] = i < count ? static_cast<int32_t>(rows[i]) : 0;
    digests_wanted_.as<DigestWanted>()[i] = i < count ? wanted[i] : DigestWanted{};
  }
  if (bucket) {
    replay(uint64_t{1} << 63 | bucket, [&] { enqueue_head(bucket, shape_.dependent_launch); });
  } else {
    enqueue_head(count, false);
  }
  for (uint32_t first = 0, end; first < count; first = end) {
    for (end = first + 1; end < count && (wanted[end].largest > 0) == (wanted[first].largest > 0);) ++end;
    if (wanted[first].largest == 0) copy_logits(first, end - first, out + first * stride, stride);
  }
  wait("a step");
}

void Runner::final_state(uint32_t row, float* out) {
  check(
      rms_norm(hidden_.as<float>() + size_t{row} * shape_.hidden, nullptr, 1, final_norm_.as<float>(),
               shape_.norm_eps, shape_.hidden, normed_.data(), x_stride_, state_.as<float>(), false, stream_),
      "norm");
  check(cudaMemcpyAsync(out, state_.data(), size_t{shape_.hidden} * sizeof(float), cudaMemcpyDeviceToHost,
                        stream_),
        "state");
  wait("a step");
}

}  // namespace filigree::cuda
