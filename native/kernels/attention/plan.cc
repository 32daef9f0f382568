#include "kernels/attention/plan.h"

#include <algorithm>
#include <string>

#include "base/status.h"

namespace filigree {
namespace {

constexpr size_t kMaxParts = 4096;
constexpr size_t kPartialBytes = size_t{64} << 20;  // reserved, not touched until contexts are split

int64_t first_key(int64_t query, int window) {
  return window > 0 ? std::max<int64_t>(0, query - window + 1) : 0;
}

}  // namespace

int attend_queries_per_item(int heads, int kv_heads) {
  return std::max(1, kAttentionRows / (heads / kv_heads));
}

size_t attend_workspace_floats(const KvLayout& kv, int heads) {
  const size_t group = static_cast<size_t>(heads / kv.kv_heads), padded = kv.padded_dim();
  const size_t rows = static_cast<size_t>(attend_queries_per_item(heads, kv.kv_heads)) * group;
  const size_t per_row = 3 * padded + kAttentionChunk + 16;  // query, two accumulators, scores, sums
  const size_t states = (rows + 15) / 16 * 16 + (2 * rows + 15) / 16 * 16;
  return rows * per_row + 2 * kAttentionChunk * padded + states;
}

size_t partial_floats(const KvLayout& kv, size_t rows) { return rows * (kv.padded_dim() + 16); }

AttentionPlan::AttentionPlan(const KvLayout& kv, int heads, int max_tokens, int max_sequences, int threads)
    : kv_(kv), heads_(heads), threads_(threads), partials_(threads > 1 ? kPartialBytes : 0) {
  if (kv.kv_heads < 1 || kv.head_dim < 1 || heads < 1 || heads % kv.kv_heads != 0) {
    throw Error(ErrorCode::invalid_argument,
                "attention: " + std::to_string(heads) + " heads over " + std::to_string(kv.kv_heads) +
                    " KV heads of " + std::to_string(kv.head_dim) +
                    ": heads must be a positive multiple of KV heads; correct the model's config.json");
  }
  const size_t groups =
      static_cast<size_t>(max_tokens / attend_queries_per_item(heads, kv.kv_heads) + max_sequences + 1) *
      static_cast<size_t>(kv.kv_heads);
  items_.reserve(groups + kMaxParts);
  combines_.reserve(groups);
}

void AttentionPlan::build(std::span<const AttendSequence> sequences, int sliding_window) {
  items_.clear();
  combines_.clear();
  const int per_item = attend_queries_per_item(heads_, kv_.kv_heads), group = heads_ / kv_.kv_heads;
  int64_t total = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (int begin = 0; begin < sequences[s].n_queries; begin += per_item) {
      const int end = std::min(begin + per_item, sequences[s].n_queries);
      const int64_t last = sequences[s].first_position + end - 1;
      const int64_t keys = last + 1 - first_key(sequences[s].first_position + begin, sliding_window);
      for (int head = 0; head < kv_.kv_heads; ++head) {
        items_.push_back({static_cast<int32_t>(s), head, begin, end, -1, 0, keys * (end - begin) * group});
        total += items_.back().cost;
      }
    }
  }

  // Parts are worth their merging only where whole groups cannot be shared out evenly.
  const size_t groups = items_.size(), threads = static_cast<size_t>(threads_);
  const size_t room = partials_.size() / sizeof(float);
  size_t used = 0, parts_made = 0;
  for (size_t i = 0; i < groups && threads_ > 1; ++i) {
    const AttendItem whole = items_[i];
    const bool even = groups >= 2 * threads && whole.cost <= total / (2 * threads_);
    const AttendSequence& sequence = sequences[static_cast<size_t>(whole.sequence)];
    const int64_t begin = first_key(sequence.first_position + whole.query_begin, sliding_window);
    const int64_t end = sequence.first_position + whole.query_end;
    const int64_t part_begin = begin / kAttentionPart, part_end = (end + kAttentionPart - 1) / kAttentionPart;
    const size_t parts = static_cast<size_t>(part_end - part_begin);
    const size_t rows = static_cast<size_t>(whole.query_end - whole.query_begin) * static_cast<size_t>(group);
    const size_t floats = partial_floats(kv_, rows);
    if (even || parts < 2 || parts_made + parts > kMaxParts || used + parts * floats > room) continue;
    combines_.push_back({whole.sequence, whole.kv_head, whole.query_begin, whole.query_end,
                         static_cast<int32_t>(parts), used});
    for (size_t p = 0; p < parts; ++p) {
      const int64_t from = std::max(begin, (part_begin + static_cast<int64_t>(p)) * kAttentionPart);
      const int64_t to = std::min(end, (part_begin + static_cast<int64_t>(p) + 1) * kAttentionPart);
      AttendItem part = whole;
      part.part = static_cast<int32_t>(part_begin + static_cast<int64_t>(p));
      part.partial = used + p * floats;
      part.cost = (to - from) * static_cast<int64_t>(rows);
      if (p == 0) {
        items_[i] = part;
      } else {
        items_.push_back(part);
      }
    }
    used += parts * floats;
    parts_made += parts;
  }
  // Longest first: whoever takes items from a shared counter ends with small ones.
  std::sort(items_.begin(), items_.end(), [](const AttendItem& a, const AttendItem& b) {
    if (a.cost != b.cost) return a.cost > b.cost;
    if (a.sequence != b.sequence) return a.sequence < b.sequence;
    if (a.kv_head != b.kv_head) return a.kv_head < b.kv_head;
    return a.query_begin != b.query_begin ? a.query_begin < b.query_begin : a.part < b.part;
  });
}

}  // namespace filigree
