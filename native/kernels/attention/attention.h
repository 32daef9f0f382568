#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention/kv_layout.h"

namespace filigree {

struct CpuFeatures;

// Causal attention over a paged cache, grouped query heads, optional sliding window, online softmax
// (Milakov and Gimelshein, arXiv 1805.02867; tiles as in FlashAttention, arXiv 2205.14135).
//
//   out[i, h] = sum_j p_ij v_j / sum_j p_ij,  p_ij = exp(scale * <q[i, h], k_j> - m),  over first(i) <= j <= i
//   first(i) = 0, or max(0, i - window + 1)
//
// One result, however it is computed. A query's keys are walked in chunks of 64 positions and parts of 512, both counted from
// position 0; a part has its own (max, sum, accumulator), and parts are merged in order. Sums run over head_dim and over
// positions in ascending order, per 16 lanes. So a result depends on the query and on the stored keys and values alone: not on
// the batch, on how a prompt was cut, on who computes which part, nor on the instruction set.
constexpr int kAttentionChunk = 64;
constexpr int kAttentionPart = 512;

struct AttendSequence {
  const int32_t* block_table;  // block of positions 16 b .. 16 b + 15
  int64_t first_position;      // of query 0
  int n_queries;
  const float* q;  // [n_queries] rows of [heads * head_dim], q_stride floats apart, already rotated
  size_t q_stride;
  float* out;  // the same shape; may be q: an item reads its queries before it writes them
  size_t out_stride;
};

struct AttendArgs {
  KvLayout kv;
  const std::byte* arena;  // this layer's block 0
  size_t block_stride;     // bytes from a block to the next
  int heads;               // a multiple of kv.kv_heads; head h uses KV head h / (heads / kv_heads)
  float scale;             // usually 1 / sqrt(head_dim)
  int sliding_window;      // 0 = none; otherwise a query sees itself and the window - 1 positions before it
  const AttendSequence* sequences;
  float* partials;  // AttentionPlan::partials(); null where no item is a part
};

// One unit of work: some queries of one sequence against one KV head. part = -1 walks all their keys and writes the result;
// part >= 0 computes that part of 512 positions alone and leaves (max, sum, accumulator) in partials.
struct AttendItem {
  int32_t sequence;
  int32_t kv_head;
  int32_t query_begin, query_end;
  int32_t part;
  size_t partial;  // offset in floats of this part's rows, part >= 0 only
  int64_t cost;    // keys * query rows, for balancing
};

// The parts of one group of queries, merged into the result by combine() once all of them are done.
struct CombineItem {
  int32_t sequence;
  int32_t kv_head;
  int32_t query_begin, query_end;
  int32_t parts;
  size_t partial;  // of the first; the others follow at partial_floats() each
};

using AttendFn = void (*)(const AttendArgs& args, const AttendItem& item, float* workspace);
using CombineFn = void (*)(const AttendArgs& args, const CombineItem& item);
// Stores one position's rows k and v, [kv_heads * head_dim] each, in `slot` (0..15) of a block.
using StoreKvFn = void (*)(const KvLayout& layout, std::byte* block, int slot, const float* k,
                           const float* v);

struct AttentionOps {
  const char* variant;
  AttendFn attend;
  CombineFn combine;
  StoreKvFn store_kv;
};

// All variants agree bit for bit.
AttentionOps select_attention(const CpuFeatures& cpu);

// Queries an item may hold: at least one, and up to this many rows (queries * heads per KV head).
constexpr int kAttentionRows = 64;
int attend_queries_per_item(int heads, int kv_heads);

// Floats of scratch memory one attend() call needs, 64-byte aligned, one per thread.
size_t attend_workspace_floats(const KvLayout& kv, int heads);

// Floats that `rows` rows of a part take in the partials.
size_t partial_floats(const KvLayout& kv, size_t rows);

}  // namespace filigree
