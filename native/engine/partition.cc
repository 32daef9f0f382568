#include "engine/partition.h"

#include <algorithm>
#include <string>

#include "base/status.h"

namespace filigree {
namespace {

[[noreturn]] void refuse(const std::string& what, uint32_t ranks) {
  throw Error(ErrorCode::unsupported,
              "--tensor-parallel " + std::to_string(ranks) + ": " + what + "; take another number of GPUs");
}

// Of `total`, in whole units: as even as that can be, the last with what is left over.
Range share(uint32_t total, uint32_t unit, uint32_t rank, uint32_t ranks) {
  const uint64_t units = (total + unit - 1) / unit;
  const auto at = [&](uint32_t r) {
    return std::min(total, static_cast<uint32_t>(units * r / ranks) * unit);
  };
  return {at(rank), at(rank + 1)};
}

Range part_rows(const Projection::Part& part) {
  return {part.column, part.column + part.packed.matrix().rows};
}

// The given rows of a projection, counted through all its parts.
Projection take_rows(const Projection& whole, std::span<const Range> rows, const CpuFeatures& cpu) {
  Projection out;
  for (const Projection::Part& part : whole.parts) {
    std::vector<Range> of_part;
    for (const Range& r : rows) {
      const Range p = part_rows(part);
      const uint32_t begin = std::max(r.begin, p.begin), end = std::min(r.end, p.end);
      if (begin < end) of_part.push_back({begin - p.begin, end - p.begin});
    }
    const linear::Matrix& m = part.packed.matrix();
    if (!of_part.empty()) out.add(slice(m, of_part, {0, m.cols}), cpu);
  }
  if (!whole.bias.empty()) {
    for (const Range& r : rows)
      out.bias.insert(out.bias.end(), whole.bias.begin() + r.begin, whole.bias.begin() + r.end);
  }
  return out;
}

Projection take_columns(const Projection& whole, Range columns, const CpuFeatures& cpu) {
  Projection out;
  for (const Projection::Part& part : whole.parts) {
    const linear::Matrix& m = part.packed.matrix();
    const Range rows[] = {{0, m.rows}};
    out.add(slice(m, rows, columns), cpu);
  }
  return out;
}

}  // namespace

void Partition::check_heads(const ModelConfig& c, uint32_t ranks) {
  if (c.heads % ranks != 0) refuse("the model's " + std::to_string(c.heads) + " heads do not divide", ranks);
  if (c.kv_heads % ranks != 0)
    refuse("the model's " + std::to_string(c.kv_heads) + " KV heads do not divide", ranks);
}

Partition::Partition(const ModelConfig& config, const ModelWeights& weights, uint32_t ranks)
    : config_(config), ranks_(ranks), ffn_unit_(linear::kPanelRows) {
  check_heads(config, ranks);
  const auto unit_of = [](const Projection& p) {
    uint32_t unit = 1;
    for (const Projection::Part& part : p.parts) unit = std::max(unit, column_unit(part.packed.matrix()));
    return unit;
  };
  const uint32_t head_cols = config.q_cols() / ranks;
  for (const LayerWeights& layer : weights.layers) {
    ffn_unit_ = std::max(ffn_unit_, unit_of(layer.down));
    if (const uint32_t unit = unit_of(layer.output); ranks > 1 && head_cols % unit != 0)
      refuse("the output projection's " + std::to_string(head_cols) +
                 " columns of a GPU are not whole groups of " + std::to_string(unit),
             ranks);
  }
  const linear::MatrixSpec& head = weights.head.parts[0].packed.matrix();
  vocabulary_unit_ = linear::kPanelRows * linear::panels_per_unit(head.format);
  if (ranks == 1) return;  // nothing is cut
  if (config.intermediate / ffn_unit_ < ranks)
    refuse("the feed-forward layer's " + std::to_string(config.intermediate) + " columns do not divide",
           ranks);
  if (config.vocabulary / vocabulary_unit_ < ranks)
    refuse("the vocabulary of " + std::to_string(config.vocabulary) + " does not divide", ranks);
}

Range Partition::heads(uint32_t rank) const { return share(config_.heads, 1, rank, ranks_); }
Range Partition::kv_heads(uint32_t rank) const { return share(config_.kv_heads, 1, rank, ranks_); }
Range Partition::ffn(uint32_t rank) const { return share(config_.intermediate, ffn_unit_, rank, ranks_); }
Range Partition::vocabulary(uint32_t rank) const {
  return share(config_.vocabulary, vocabulary_unit_, rank, ranks_);
}

LayerWeights Partition::layer(const LayerWeights& whole, uint32_t rank, const CpuFeatures& cpu) const {
  const ModelConfig& c = config_;
  const Range q = heads(rank), kv = kv_heads(rank), columns = ffn(rank);
  LayerWeights out;
  out.attention_norm = whole.attention_norm;
  out.ffn_norm = whole.ffn_norm;
  out.interleaved = whole.interleaved;
  const auto of_heads = [&](uint32_t first, Range r) {
    return Range{first + r.begin * c.head_dim, first + r.end * c.head_dim};
  };
  const Range qkv[] = {of_heads(0, q), of_heads(c.q_cols(), kv), of_heads(c.q_cols() + c.kv_cols(), kv)};
  out.qkv = take_rows(whole.qkv, qkv, cpu);
  out.output = take_columns(whole.output, of_heads(0, q), cpu);
  if (whole.interleaved) {  // 16 rows of gate, 16 of up
    const uint32_t end = (columns.end + linear::kPanelRows - 1) / linear::kPanelRows * linear::kPanelRows;
    const Range gate_up[] = {{2 * columns.begin, 2 * end}};
    out.gate_up = take_rows(whole.gate_up, gate_up, cpu);
    out.gate_up.together = whole.gate_up.together;
  } else {
    const Range gate_up[] = {columns, {c.intermediate + columns.begin, c.intermediate + columns.end}};
    out.gate_up = take_rows(whole.gate_up, gate_up, cpu);
  }
  out.down = take_columns(whole.down, columns, cpu);
  return out;
}

Projection Partition::head(const Projection& whole, uint32_t rank, const CpuFeatures& cpu) const {
  const Range rows[] = {vocabulary(rank)};
  return take_rows(whole, rows, cpu);
}

}  // namespace filigree
