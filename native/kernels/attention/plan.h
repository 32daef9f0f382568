#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/attention/attention.h"

namespace filigree {

// Cuts a step's attention into work items, the same for every layer of a step.
//
//   plan.build(kv, heads, window, sequences);             // once a step
//   per layer: all items of plan.items() on any thread in any order, each exactly once;
//              if plan.combines() is not empty: a barrier, then those, likewise.
//
// Queries are grouped so that one read of K and V serves all of a group's rows. Where there are fewer groups than threads can
// share evenly and contexts are long, a group's keys are split into parts. How it is cut never changes a result.
class AttentionPlan {
 public:
  // Reserves for steps of up to max_tokens queries in max_sequences sequences, so that build() does not allocate.
  AttentionPlan(const KvLayout& kv, int heads, int max_tokens, int max_sequences, int threads);

  // Reads first_position and n_queries of each sequence; the pointers in them may still change.
  void build(std::span<const AttendSequence> sequences, int sliding_window);

  std::span<const AttendItem> items() const { return items_; }
  std::span<const CombineItem> combines() const { return combines_; }
  float* partials() { return partials_.as<float>(); }

 private:
  KvLayout kv_;
  int heads_, threads_;
  std::vector<AttendItem> items_;
  std::vector<CombineItem> combines_;
  AlignedBuffer partials_;
};

}  // namespace filigree
