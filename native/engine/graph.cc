#include "engine/graph.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "engine/embedding.h"
#include "engine/fixed_product.h"
#include "kernels/linear/shares.h"

namespace filigree {
namespace {

// Work below these is done by fewer threads: waking another costs more. In bytes of weights (each counted once per few tokens),
// in elements of rows, and in multiply-adds of attention.
constexpr uint64_t kWeightBytesPerThread = 48 << 10;
constexpr uint64_t kRowElementsPerThread = 12 << 10;
constexpr uint64_t kAttentionWorkPerThread = 48 << 10;

int threads_for(uint64_t work, uint64_t per_thread, int most) {
  return static_cast<int>(std::clamp<uint64_t>(work / per_thread, 1, static_cast<uint64_t>(most)));
}

template <class T>
T* row_of(AlignedBuffer& buffer, size_t row, size_t stride) {
  return buffer.as<T>() + row * stride;
}

uint32_t widest_input(const ModelConfig& c, uint32_t ffn_cols) {
  return std::max({c.hidden, c.q_cols(), ffn_cols});
}

size_t linear_scratch(const ModelWeights& weights, uint32_t max_rows, uint32_t max_logit_rows) {
  size_t most = 0;
  const auto visit = [&](const Projection& projection, uint32_t rows) {
    for (const Projection::Part& part : projection.parts)
      most = std::max(most, part.plan.workspace_bytes(2 * rows));
  };
  visit(weights.head, max_logit_rows);
  for (const LayerWeights& layer : weights.layers) {
    for (const Projection* p : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) visit(*p, max_rows);
  }
  return most;
}

}  // namespace

Graph::Graph(const ModelConfig& c, const ModelWeights& weights, std::span<const Adapter> adapters,
             KvArena& arena, const CpuFeatures& cpu, ThreadPool& pool, uint32_t max_rows, uint32_t max_chunks,
             uint32_t max_logit_rows, int64_t max_positions)
    : config_(c),
      weights_(weights),
      arena_(arena),
      pool_(pool),
      norm_(select_norm(cpu)),
      rope_(select_rope(cpu)),
      activation_(select_activation(cpu)),
      attention_(select_attention(cpu)),
      frequencies_(build_rope_frequencies(c.rope, max_positions)),
      activations_(std::max(max_rows, max_logit_rows),
                   widest_input(c, (c.intermediate + linear::kPanelRows - 1) / linear::kPanelRows *
                                       linear::kPanelRows),
                   select_quantize(cpu)),
      attention_plan_(arena.layout(), static_cast<int>(c.heads), static_cast<int>(max_rows),
                      static_cast<int>(max_chunks), pool.size()),
      low_rank_(adapters, max_rows, max_chunks, pool),
      ffn_cols_((c.intermediate + linear::kPanelRows - 1) / linear::kPanelRows * linear::kPanelRows) {
  const auto floats = [](size_t rows, size_t cols) { return AlignedBuffer(rows * cols * sizeof(float)); };
  hidden_ = floats(max_rows, c.hidden);
  normed_ = floats(std::max(max_rows, max_logit_rows), c.hidden);
  // Outputs of linear layers have room for the second halves of split rows (activations.h) behind the rows themselves.
  qkv_ = floats(size_t{2} * max_rows, c.qkv_cols());
  gate_up_ = floats(size_t{2} * max_rows, size_t{2} * ffn_cols_);
  ffn_ = floats(max_rows, ffn_cols_);
  product_ = floats(size_t{2} * max_rows, c.hidden);
  cos_ = floats(max_rows, c.head_dim / 2);
  sin_ = floats(max_rows, c.head_dim / 2);
  logits_ = floats(size_t{2} * max_logit_rows, c.vocabulary);
  scratch_bytes_ =
      std::max({linear_scratch(weights, max_rows, max_logit_rows),
                attend_workspace_floats(arena.layout(), static_cast<int>(c.heads)) * sizeof(float),
                weights.has_embedding() ? embedding_scratch_bytes(weights.embedding_matrix()) : 0});
  scratch_bytes_ = (scratch_bytes_ + 4095) / 4096 * 4096;
  scratch_ = AlignedBuffer(scratch_bytes_ * static_cast<size_t>(pool.size()));
  rows_.reserve(max_rows);
  sequences_.reserve(max_chunks);
}

size_t Graph::workspace_bytes() const {
  return hidden_.size() + normed_.size() + qkv_.size() + gate_up_.size() + ffn_.size() + product_.size() +
         logits_.size() + scratch_.size() + low_rank_.workspace_bytes();
}

void Graph::each_row(uint32_t rows, size_t cost_per_row, FunctionRef<void(uint32_t, int)> work) {
  const int threads =
      std::min(threads_for(rows * cost_per_row, kRowElementsPerThread, pool_.size()), static_cast<int>(rows));
  if (threads <= 1) {
    for (uint32_t row = 0; row < rows; ++row) work(row, 0);
    return;
  }
  pool_.run_short(threads, [&](int thread, int of) {
    const uint32_t begin =
        static_cast<uint32_t>(uint64_t{rows} * static_cast<uint32_t>(thread) / static_cast<uint32_t>(of));
    const uint32_t end =
        static_cast<uint32_t>(uint64_t{rows} * static_cast<uint32_t>(thread + 1) / static_cast<uint32_t>(of));
    for (uint32_t row = begin; row < end; ++row) work(row, thread);
  });
}

void Graph::project(const Projection& projection, uint32_t rows, float* out, size_t stride,
                    FunctionRef<void(uint32_t, uint32_t, int)> finish) {
  if (projection.fixed != nullptr) {
    projection.fixed->run(pool_, activations_.source(), activations_.source_stride(), rows, out, stride,
                          finish);
    return;
  }
  const uint64_t work = projection.bytes() * (1 + rows / 4);
  const int threads = threads_for(work, kWeightBytesPerThread, pool_.size());
  for (std::atomic<uint32_t>& next : next_chunk_) next.store(0, std::memory_order_relaxed);
  const auto job = [&](int thread, int of) {
    std::byte* scratch = scratch_.data() + scratch_bytes_ * static_cast<size_t>(thread);
    for (size_t p = 0; p < projection.parts.size(); ++p) {
      const Projection::Part& part = projection.parts[p];
      const linear::Matrix& m = part.packed.matrix();
      const linear::Input input = activations_.input(m);
      const linear::Variant& kernel = part.plan.pick(input.tokens);
      const linear::Share share = part.shares.size() == static_cast<size_t>(of)
                                      ? part.shares[static_cast<size_t>(thread)]
                                      : linear::share_of(m, thread, of, projection.together);
      share.take(next_chunk_[p], [&](uint32_t begin, uint32_t end) {
        kernel.run(m, input, begin, end, out + part.column, stride, scratch);
        const uint32_t first = part.column + begin * linear::kPanelRows;
        const uint32_t last = part.column + std::min(m.rows, end * linear::kPanelRows);
        for (uint32_t token = rows; token < input.tokens; ++token) {
          norm_.add(out + activations_.leftovers()[token - rows] * stride + first,
                    out + token * stride + first, last - first);
        }
        finish(first, last, thread);
      });
    }
  };
  if (threads <= 1) {
    job(0, 1);
  } else {
    pool_.run_short(threads, job);
  }
}

void Graph::add_columns(float* to, const float* from, uint32_t rows, uint32_t begin, uint32_t end) {
  const size_t stride = config_.hidden;
  for (uint32_t row = 0; row < rows; ++row) {
    norm_.add(to + row * stride + begin, from + row * stride + begin, end - begin);
  }
}

void Graph::prepare(std::span<const Chunk> chunks, bool embed) {
  rows_.clear();
  sequences_.clear();
  const size_t qkv_cols = config_.qkv_cols();
  for (const Chunk& chunk : chunks) {
    AttendSequence sequence{};
    sequence.block_table = chunk.blocks;
    sequence.first_position = chunk.position;
    sequence.n_queries = static_cast<int>(chunk.tokens.size());
    sequence.q = row_of<float>(qkv_, rows_.size(), qkv_cols);
    sequence.q_stride = qkv_cols;
    sequence.out = row_of<float>(qkv_, rows_.size(), qkv_cols);
    sequence.out_stride = qkv_cols;
    sequences_.push_back(sequence);
    for (size_t i = 0; i < chunk.tokens.size(); ++i) {
      const int32_t position = chunk.position + static_cast<int32_t>(i);
      rows_.push_back({chunk.tokens[i], position, chunk.blocks[position / KvLayout::block_tokens]});
    }
  }
  low_rank_.begin(chunks);
  attention_plan_.build(sequences_, static_cast<int>(config_.sliding_window));
  const size_t half = config_.head_dim / 2;
  each_row(static_cast<uint32_t>(rows_.size()), config_.hidden + 32 * half, [&](uint32_t row, int thread) {
    rope_angles(frequencies_, rows_[row].position, row_of<float>(cos_, row, half),
                row_of<float>(sin_, row, half));
    if (!embed) return;
    read_embedding(weights_.embedding_matrix(), static_cast<uint32_t>(rows_[row].token),
                   row_of<float>(hidden_, row, config_.hidden),
                   scratch_.data() + scratch_bytes_ * static_cast<size_t>(thread));
  });
}

void Graph::forward(std::span<const Chunk> chunks) {
  prepare(chunks, true);
  const uint32_t rows = static_cast<uint32_t>(rows_.size());
  for (uint32_t l = 0; l < config_.layers; ++l) {
    attention_layer(l, rows, nullptr);
    ffn_layer(l, rows, nullptr);
  }
}

void Graph::forward_layer(uint32_t index, std::span<const Chunk> chunks, float* hidden, const LayerTap& tap) {
  prepare(chunks, false);
  const uint32_t rows = static_cast<uint32_t>(rows_.size());
  const size_t bytes = size_t{rows} * config_.hidden * sizeof(float);
  std::memcpy(hidden_.data(), hidden, bytes);
  if (attention_layer(index, rows, &tap) && ffn_layer(index, rows, &tap))
    std::memcpy(hidden, hidden_.data(), bytes);
}

void Graph::rotate_and_store(uint32_t index, uint32_t row) {
  const ModelConfig& c = config_;
  float* q = row_of<float>(qkv_, row, c.qkv_cols());
  float* k = q + c.q_cols();
  const float* cos = row_of<float>(cos_, row, c.head_dim / 2);
  const float* sin = row_of<float>(sin_, row, c.head_dim / 2);
  // Keys follow the queries in the row: one call rotates both.
  rope_.apply(q, c.heads + c.kv_heads, c.head_dim, cos, sin);
  attention_.store_kv(arena_.layout(), arena_.block(index, rows_[row].block),
                      rows_[row].position % KvLayout::block_tokens, k, k + c.kv_cols());
}

void Graph::attend(uint32_t index) {
  AttendArgs args{};
  args.kv = arena_.layout();
  args.arena = arena_.layer(index);
  args.block_stride = arena_.layout().bytes_per_block();
  args.heads = static_cast<int>(config_.heads);
  args.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  args.sliding_window = static_cast<int>(config_.sliding_window);
  args.sequences = sequences_.data();
  args.partials = attention_plan_.partials();
  const std::span<const AttendItem> items = attention_plan_.items();
  const std::span<const CombineItem> combines = attention_plan_.combines();
  uint64_t work = 0;
  for (const AttendItem& item : items) work += static_cast<uint64_t>(item.cost) * config_.head_dim;
  const int threads = static_cast<int>(std::min<size_t>(
      static_cast<size_t>(threads_for(work, kAttentionWorkPerThread, pool_.size())), items.size()));
  // Items are dealt out as threads become free; which thread takes one never changes its result.
  std::atomic<size_t> next{0};
  const auto take_items = [&](int thread, int) {
    float* scratch = reinterpret_cast<float*>(scratch_.data() + scratch_bytes_ * static_cast<size_t>(thread));
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < items.size();)
      attention_.attend(args, items[i], scratch);
  };
  std::atomic<size_t> next_combine{0};
  const auto take_combines = [&](int, int) {
    for (size_t i; (i = next_combine.fetch_add(1, std::memory_order_relaxed)) < combines.size();) {
      attention_.combine(args, combines[i]);
    }
  };
  if (threads <= 1) {
    take_items(0, 1);
    take_combines(0, 1);
    return;
  }
  pool_.run_short(threads, take_items);
  if (!combines.empty()) pool_.run_short(threads, take_combines);
}

bool Graph::attention_layer(uint32_t index, uint32_t rows, const LayerTap* tap) {
  const ModelConfig& c = config_;
  const LayerWeights& layer = weights_.layers[index];
  const size_t qkv_cols = c.qkv_cols();
  activations_.begin(layer.qkv, normed_.as<float>(), c.hidden, rows);
  each_row(rows, c.hidden, [&](uint32_t row, int) {
    norm_.rms_norm(row_of<float>(hidden_, row, c.hidden), layer.attention_norm.data(), c.norm_eps, c.hidden,
                   row_of<float>(normed_, row, c.hidden));
    activations_.convert(row);
  });
  if (tap && !(*tap)(TapPoint::qkv, normed_.as<float>(), c.hidden, rows)) return false;
  low_rank_.shrink(index, Site::qkv, normed_.as<float>(), c.hidden);
  project(layer.qkv, rows, qkv_.as<float>(), qkv_cols, [&](uint32_t begin, uint32_t end, int thread) {
    low_rank_.expand(index, Site::qkv, begin, end, thread, qkv_.as<float>(), qkv_cols);
    if (layer.qkv.bias.empty()) return;
    for (uint32_t row = 0; row < rows; ++row) {
      norm_.add(row_of<float>(qkv_, row, qkv_cols) + begin, layer.qkv.bias.data() + begin, end - begin);
    }
  });
  each_row(rows, qkv_cols, [&](uint32_t row, int) { rotate_and_store(index, row); });
  attend(index);
  activations_.begin(layer.output, qkv_.as<float>(), qkv_cols, rows);
  each_row(rows, c.q_cols(), [&](uint32_t row, int) { activations_.convert(row); });
  if (tap && !(*tap)(TapPoint::output, qkv_.as<float>(), qkv_cols, rows)) return false;
  low_rank_.shrink(index, Site::output, qkv_.as<float>(), qkv_cols);
  project(layer.output, rows, product_.as<float>(), c.hidden, [&](uint32_t begin, uint32_t end, int thread) {
    low_rank_.expand(index, Site::output, begin, end, thread, product_.as<float>(), c.hidden);
    add_columns(hidden_.as<float>(), product_.as<float>(), rows, begin, end);
  });
  return true;
}

bool Graph::ffn_layer(uint32_t index, uint32_t rows, const LayerTap* tap) {
  const ModelConfig& c = config_;
  const LayerWeights& layer = weights_.layers[index];
  activations_.begin(layer.gate_up, normed_.as<float>(), c.hidden, rows);
  each_row(rows, c.hidden, [&](uint32_t row, int) {
    norm_.rms_norm(row_of<float>(hidden_, row, c.hidden), layer.ffn_norm.data(), c.norm_eps, c.hidden,
                   row_of<float>(normed_, row, c.hidden));
    activations_.convert(row);
  });
  if (tap && !(*tap)(TapPoint::gate_up, normed_.as<float>(), c.hidden, rows)) return false;
  const size_t both = layer.gate_up.out;
  low_rank_.shrink(index, Site::gate_up, normed_.as<float>(), c.hidden);
  project(layer.gate_up, rows, gate_up_.as<float>(), both, [&](uint32_t begin, uint32_t end, int thread) {
    low_rank_.expand(index, Site::gate_up, begin, end, thread, gate_up_.as<float>(), both);
    if (!layer.interleaved) return;
    constexpr uint32_t kRun = linear::kPanelRows;
    for (uint32_t row = 0; row < rows; ++row) {
      const float* from = row_of<float>(gate_up_, row, both);
      float* to = row_of<float>(ffn_, row, ffn_cols_);
      for (uint32_t i = begin; i < end; i += 2 * kRun)
        activation_.swiglu(from + i, from + i + kRun, kRun, to + i / 2);
    }
  });
  activations_.begin(layer.down, ffn_.as<float>(), ffn_cols_, rows);
  each_row(rows, c.intermediate, [&](uint32_t row, int) {
    if (!layer.interleaved) {
      const float* gate = row_of<float>(gate_up_, row, both);
      activation_.swiglu(gate, gate + c.intermediate, c.intermediate, row_of<float>(ffn_, row, ffn_cols_));
    }
    activations_.convert(row);
  });
  if (tap && !(*tap)(TapPoint::down, ffn_.as<float>(), ffn_cols_, rows)) return false;
  low_rank_.shrink(index, Site::down, ffn_.as<float>(), ffn_cols_);
  project(layer.down, rows, product_.as<float>(), c.hidden, [&](uint32_t begin, uint32_t end, int thread) {
    low_rank_.expand(index, Site::down, begin, end, thread, product_.as<float>(), c.hidden);
    add_columns(hidden_.as<float>(), product_.as<float>(), rows, begin, end);
  });
  return true;
}

void Graph::final_state(uint32_t row, float* out) const {
  const ModelConfig& c = config_;
  norm_.rms_norm(hidden_.as<float>() + size_t{row} * c.hidden, weights_.final_norm.data(), c.norm_eps,
                 c.hidden, out);
}

const float* Graph::logits(std::span<const uint32_t> rows) {
  const ModelConfig& c = config_;
  const uint32_t count = static_cast<uint32_t>(rows.size());
  activations_.begin(weights_.head, normed_.as<float>(), c.hidden, count);
  each_row(count, c.hidden, [&](uint32_t i, int) {
    norm_.rms_norm(row_of<float>(hidden_, rows[i], c.hidden), weights_.final_norm.data(), c.norm_eps,
                   c.hidden, row_of<float>(normed_, i, c.hidden));
    activations_.convert(i);
  });
  project(weights_.head, count, logits_.as<float>(), c.vocabulary, [](uint32_t, uint32_t, int) {});
  return logits_.as<float>();
}

}  // namespace filigree
