#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/attention_plan.h"
#include "cuda/plan.h"

// What a decoder does between its linear layers, on the device. Rows are tokens of a step; what a row needs to know of its
// sequence stands in StepRows, filled by the host before each step. A row with position -1 is padding (a step is padded to the
// size its CUDA graph was captured for): nothing is read or stored for it.

namespace filigree::cuda {

// i8 and e4m3 (fp8) come with a scale for each position and head: element = scale * code.
enum class KvElement : uint32_t { f16 = 0, bf16 = 1, i8 = 2, e4m3 = 3 };

// Device arrays, [rows] each.
struct StepRows {
  const int32_t* tokens = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* tables = nullptr;        // which block table
  const int32_t* block_tables = nullptr;  // [tables][table_stride] physical blocks
  uint32_t table_stride = 0;
};
// The same for whoever fills them.
struct WritableStepRows {
  int32_t* tokens = nullptr;
  int32_t* positions = nullptr;
  int32_t* tables = nullptr;
  int32_t* block_tables = nullptr;
  uint32_t table_stride = 0;
  operator StepRows() const { return {tokens, positions, tables, block_tables, table_stride}; }
};

inline constexpr uint32_t kBlockTokens = 16;

// Bytes of one head of a block: [16 positions][head_dim], then, where there are scales, f32 [16].
constexpr uint32_t kv_element_bytes(KvElement e) {
  return e == KvElement::f16 || e == KvElement::bf16 ? 2 : 1;
}
constexpr uint32_t kv_head_bytes(KvElement e, uint32_t head_dim) {
  return kBlockTokens * (head_dim * kv_element_bytes(e) + (kv_element_bytes(e) == 1 ? 4 : 0));
}

// The paged cache of one layer: keys and values, [block][kv_head] of kv_head_bytes() each.
struct KvPages {
  KvElement element = KvElement::f16;
  uint32_t kv_heads = 0, head_dim = 0;
  void* keys = nullptr;
  void* values = nullptr;
};

// h[row] = table[token], table bf16 [vocabulary][hidden], h f32.
cudaError_t embed(const StepRows& rows, uint32_t count, const void* table, uint32_t hidden, float* h,
                  bool dependent, cudaStream_t stream);
// The same of a step whose rows have a block table each, after copying to `rows` what the host has written, in memory that the device
// reads: token, position, table, and of the block table what the position reaches. What reads `rows` before it waits for its inputs must
// be launched after a kernel that does not start before this one ends.
cudaError_t load_and_embed(const StepRows& host, const WritableStepRows& rows, uint32_t count,
                           const void* table, uint32_t hidden, float* h, cudaStream_t stream);
// out bf16 [count][stride] = rms_norm(h[from[row]]) * weight; from null: row by row. f32_out, if given, too: [count][hidden].
cudaError_t rms_norm(const float* h, const int32_t* from, uint32_t count, const float* weight, float eps,
                     uint32_t hidden, void* out, uint32_t stride, float* f32_out, bool dependent,
                     cudaStream_t stream);
// The same as i8 codes [count][stride] with a scale, [count][stride / block_columns], for each block of 256 or 512 columns: what tiles
// of i8 make of the bf16 above (Input::scale_columns). stride in whole blocks; columns from hidden on are zero.
cudaError_t rms_norm_rounded(const float* h, const int32_t* from, uint32_t count, const float* weight,
                             float eps, uint32_t hidden, int8_t* codes, uint32_t stride, float* scales,
                             uint32_t block_columns, bool dependent, cudaStream_t stream);
// Rotates queries and keys of qkv f32 [count][qkv_stride] ("rotate half"; angles of position * inv_freq, times attention_scale),
// writes the queries as f32 into q [count][heads * head_dim] and keys and values into the cache.
cudaError_t rotate_and_store(const StepRows& rows, uint32_t count, const float* qkv, uint32_t qkv_stride,
                             uint32_t heads, const float* inv_freq, float attention_scale, const KvPages& kv,
                             float* q, bool dependent, cudaStream_t stream);
// out bf16 [count][stride] = silu(gate) * up of gate_up bf16 [count][gate_up_stride]: interleaved in runs of 16 (as packed), or
// [gate | up] of `columns` each.
cudaError_t swiglu(const void* gate_up, uint32_t gate_up_stride, bool interleaved, uint32_t columns,
                   uint32_t count, void* out, uint32_t stride, bool dependent, cudaStream_t stream);
// x f32 [count][stride] += bias [columns].
cudaError_t add_bias(float* x, uint32_t stride, const float* bias, uint32_t columns, uint32_t count,
                     bool dependent, cudaStream_t stream);
cudaError_t copy_block(const KvPages& first_layer, size_t layer_bytes, uint32_t layers, int32_t from,
                       int32_t to, cudaStream_t stream);

// Attention of every row over the positions up to its own, in splits of split_positions (a constant of the engine, so that a
// result does not depend on the other rows; whole kTilePositions).
struct AttentionShape {
  uint32_t heads = 0;
  float scale = 1;
  uint32_t sliding_window = 0;  // 0: none
  uint32_t split_positions = 512;
};
// Partial sums: a row's in one split, of each head, [head_dim + 2].
inline size_t attention_floats(const AttentionShape& s, uint32_t head_dim, size_t slots) {
  return slots * s.heads * (head_dim + 2);
}
// A plan on the device (attention_plan.h).
struct AttentionTiles {
  const AttentionTile* tiles = nullptr;
  uint32_t count = 0, splits = 1;
};
// q f32 [rows][heads * head_dim], out bf16 [rows][stride]; head_dim a multiple of 8 up to 256, at most kTileQueries heads a key head.
// partials: attention_floats() of the plan's slots. arrivals: [tiles][kv_heads], zero, and zero again afterwards.
cudaError_t attend(const StepRows& rows, const AttentionTiles& tiles, const AttentionShape& shape,
                   const float* q, const KvPages& kv, float* partials, uint32_t* arrivals, void* out,
                   uint32_t stride, bool dependent, cudaStream_t stream);

// The same for a step with one row a sequence, from the projection on: rotates queries and keys, stores keys and values, attends in
// splits and joins them, all in one launch.
struct DecodeInput {
  const float* qkv = nullptr;  // f32 [count][stride]: queries, keys, values
  uint32_t stride = 0;
  const float* inv_freq = nullptr;
  float attention_scale = 1;
  uint32_t split_positions = 64;  // at most; decode_split(), or another power of two of kBlockTokens or more
};
bool decode_attention_fits(KvElement element, uint32_t head_dim);
// splits: at least ceil(longest context / split_positions). arrivals: [count][heads], zero, and zero again afterwards. partials:
// attention_floats() of a slot for each row and split.
cudaError_t decode_attend(const StepRows& rows, uint32_t count, const AttentionShape& shape,
                          const DecodeInput& in, const KvPages& kv, uint32_t splits, float* partials,
                          uint32_t* arrivals, void* out, uint32_t stride, bool dependent,
                          cudaStream_t stream);

}  // namespace filigree::cuda
