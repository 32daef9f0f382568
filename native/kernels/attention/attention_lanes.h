#pragma once

#include "kernels/attention/attention.h"
#include "kernels/attention/store_lanes.h"
#include "kernels/attention/tile_lanes.h"
#include "kernels/simd/math.h"

// Walks the chunks and parts of one work item; tile_lanes.h has the arithmetic of one chunk.

namespace filigree {
namespace {

constexpr int kChunkBlocks = kAttentionChunk / KvLayout::block_tokens;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// The running result of one row over several parts.
struct PartState {
  float max, sum;
};

// Appends a part (max, sum, acc) to a row's running result. A part in which the row sees no key has max -inf and is skipped.
template <class V>
void merge_part(PartState* total, float* total_acc, PartState part, const float* acc, size_t padded) {
  const float none = -__builtin_inff();
  if (part.max == none) return;
  if (total->max == none) {
    *total = part;
    for (size_t d = 0; d < padded; d += 16) V::store(total_acc + d, V::load(acc + d));
    return;
  }
  const float max = total->max > part.max ? total->max : part.max;
  const auto a = exp2<V>(V::set(total->max - max)), b = exp2<V>(V::set(part.max - max));
  float scaled[16];
  V::store(scaled, V::fma(V::set(total->sum), a, V::mul(V::set(part.sum), b)));
  *total = {max, scaled[0]};
  for (size_t d = 0; d < padded; d += 16) {
    V::store(total_acc + d, V::fma(V::load(total_acc + d), a, V::mul(V::load(acc + d), b)));
  }
}

template <class V>
void write_row(float* out, const float* acc, float sum, size_t head_dim) {
  const auto inverse = V::set(1.0f / sum);
  size_t d = 0;
  for (; d + 16 <= head_dim; d += 16) V::store(out + d, V::mul(V::load(acc + d), inverse));
  if (d < head_dim) V::store_n(out + d, V::mul(V::load(acc + d), inverse), head_dim - d);
}

// The scratch memory of one item; offsets in floats, all multiples of 16.
struct ItemMemory {
  float *q, *acc, *total, *scores, *sums, *keys, *values, *states;

  ItemMemory(float* base, size_t rows, size_t padded) {
    q = base;
    acc = q + rows * padded;
    total = acc + rows * padded;
    scores = total + rows * padded;
    sums = scores + rows * kAttentionChunk;
    keys = sums + rows * 16;
    values = keys + kAttentionChunk * padded;
    states = values + kAttentionChunk * padded;
  }
};

template <class V, class L>
void convert_chunk(Chunk* chunk, const ItemMemory& memory, size_t head_dim, size_t padded) {
  for (int b = chunk->block_begin; b < chunk->block_end; ++b) {
    const auto* keys = static_cast<const typename L::T*>(chunk->keys[b]);
    const auto* values = static_cast<const typename L::T*>(chunk->values[b]);
    float* to_keys = memory.keys + static_cast<size_t>(b) * 16 * padded;
    float* to_values = memory.values + static_cast<size_t>(b) * 16 * padded;
    for (size_t i = 0; i < 16 * head_dim; i += 16) V::store(to_keys + i, L::at(keys + i));
    for (size_t i = 0; i < 16 * padded; i += 16) V::store(to_values + i, L::at(values + i));
    chunk->keys[b] = to_keys;
    chunk->values[b] = to_values;
  }
}

template <class V, class L>
void attend_typed(const AttendArgs& args, const AttendItem& item, float* workspace) {
  const AttendSequence& sequence = args.sequences[item.sequence];
  const KvLayout& kv = args.kv;
  const size_t head_dim = static_cast<size_t>(kv.head_dim), padded = kv.padded_dim();
  const int group = args.heads / kv.kv_heads;
  const int rows = (item.query_end - item.query_begin) * group;
  const ItemMemory memory(workspace, static_cast<size_t>(rows), padded);
  const float none = -__builtin_inff();

  const auto row_head = [&](const float* base, size_t stride, int row) {
    const size_t query = static_cast<size_t>(item.query_begin + row / group);
    return base + query * stride +
           (static_cast<size_t>(item.kv_head) * static_cast<size_t>(group) +
            static_cast<size_t>(row % group)) *
               head_dim;
  };
  // Scores in base 2: exp(x) = 2^(x log2 e).
  const auto factor = V::set(args.scale * 0x1.715476p+0f);
  for (int row = 0; row < rows; ++row) {
    const float* from = row_head(sequence.q, sequence.q_stride, row);
    float* to = memory.q + static_cast<size_t>(row) * padded;
    for (size_t d = 0; d < padded; d += 16) {
      V::store(to + d, V::mul(V::load_n(from + d, head_dim - d), factor));
    }
  }

  const int64_t first_query = sequence.first_position + item.query_begin;
  const int64_t last_query = sequence.first_position + item.query_end - 1;
  const auto first_key = [&](int64_t query) {
    return args.sliding_window > 0 ? larger(0, query - args.sliding_window + 1) : 0;
  };
  const int64_t key_begin = first_key(first_query), key_end = last_query + 1;
  const int64_t part_begin = item.part >= 0 ? item.part : key_begin / kAttentionPart;
  const int64_t part_end = item.part >= 0 ? item.part + 1 : (key_end + kAttentionPart - 1) / kAttentionPart;
  const bool one_part = part_end - part_begin == 1;

  float* part_max = memory.states;
  PartState* totals = reinterpret_cast<PartState*>(memory.states + ((rows + 15) / 16) * 16);
  for (int row = 0; row < rows; ++row) totals[row] = {none, 0.0f};

  for (int64_t part = part_begin; part < part_end; ++part) {
    for (int row = 0; row < rows; ++row) part_max[row] = none;
    for (size_t i = 0; i < static_cast<size_t>(rows) * 16; i += 16) V::store(memory.sums + i, V::zero());
    for (size_t i = 0; i < static_cast<size_t>(rows) * padded; i += 16) V::store(memory.acc + i, V::zero());

    const int64_t begin = larger(part * kAttentionPart, key_begin / kAttentionChunk * kAttentionChunk);
    const int64_t end = smaller((part + 1) * kAttentionPart, key_end);
    for (int64_t start = begin; start < end; start += kAttentionChunk) {
      Chunk chunk;
      chunk.block_begin = static_cast<int>(larger(0, key_begin - start) / KvLayout::block_tokens);
      chunk.block_end = static_cast<int>(
          (smaller(kAttentionChunk, key_end - start) + KvLayout::block_tokens - 1) / KvLayout::block_tokens);
      for (int b = chunk.block_begin; b < chunk.block_end; ++b) {
        const int32_t block = sequence.block_table[start / KvLayout::block_tokens + b];
        const std::byte* head = args.arena + static_cast<size_t>(block) * args.block_stride +
                                static_cast<size_t>(item.kv_head) * kv.head_bytes();
        chunk.keys[b] = head;
        chunk.values[b] = head + kv.values_offset();
        if (kv.type == KvType::i8) {
          chunk.key_scales[b] = reinterpret_cast<const float*>(head + kv.key_scales_offset());
          chunk.value_scales[b] = reinterpret_cast<const float*>(head + kv.value_scales_offset());
        }
      }
      const bool converted = L::converts && rows > V::rows;
      if (converted) convert_chunk<V, L>(&chunk, memory, head_dim, padded);

      for (int row = 0; row < rows; row += V::rows) {
        RowTile tile;
        tile.rows = rows - row < V::rows ? rows - row : V::rows;
        int longest = 0;
        for (int r = 0; r < tile.rows; ++r) {
          const int64_t query = first_query + (row + r) / group;
          tile.begin[r] = static_cast<int>(larger(0, first_key(query) - start));
          tile.end[r] = static_cast<int>(larger(0, smaller(kAttentionChunk, query + 1 - start)));
          if (tile.end[r] > tile.begin[r]) longest = 1;
        }
        if (!longest) continue;
        const size_t at = static_cast<size_t>(row);
        tile.q = memory.q + at * padded;
        tile.scores = memory.scores + at * kAttentionChunk;
        tile.acc = memory.acc + at * padded;
        tile.sums = memory.sums + at * 16;
        tile.max = part_max + at;
        if (converted) {
          attend_tile<V, LoadF32<V>>(chunk, tile, head_dim, padded);
        } else {
          attend_tile<V, L>(chunk, tile, head_dim, padded);
        }
      }
    }

    for (int row = 0; row < rows; ++row) {
      const size_t at = static_cast<size_t>(row);
      const PartState state = {part_max[row], V::reduce_add(V::load(memory.sums + at * 16))};
      const float* acc = memory.acc + at * padded;
      if (item.part >= 0) {
        float* out = args.partials + item.partial + at * (padded + 16);
        out[0] = state.max;
        out[1] = state.sum;
        for (size_t d = 0; d < padded; d += 16) V::store(out + 16 + d, V::load(acc + d));
      } else if (one_part) {
        write_row<V>(const_cast<float*>(row_head(sequence.out, sequence.out_stride, row)), acc, state.sum,
                     head_dim);
      } else {
        merge_part<V>(&totals[row], memory.total + at * padded, state, acc, padded);
      }
    }
  }
  if (item.part >= 0 || one_part) return;
  for (int row = 0; row < rows; ++row) {
    write_row<V>(const_cast<float*>(row_head(sequence.out, sequence.out_stride, row)),
                 memory.total + static_cast<size_t>(row) * padded, totals[row].sum, head_dim);
  }
}

template <class V>
void attend(const AttendArgs& args, const AttendItem& item, float* workspace) {
  switch (args.kv.type) {
    case KvType::f32:
      return attend_typed<V, LoadF32<V>>(args, item, workspace);
    case KvType::f16:
      return attend_typed<V, LoadF16<V>>(args, item, workspace);
    case KvType::bf16:
      return attend_typed<V, LoadBf16<V>>(args, item, workspace);
    case KvType::i8:
      return attend_typed<V, LoadI8<V>>(args, item, workspace);
    case KvType::fp8:  // refused before
      return;
  }
}

template <class V>
void combine(const AttendArgs& args, const CombineItem& item) {
  const AttendSequence& sequence = args.sequences[item.sequence];
  const size_t head_dim = static_cast<size_t>(args.kv.head_dim), padded = args.kv.padded_dim();
  const int group = args.heads / args.kv.kv_heads;
  const int rows = (item.query_end - item.query_begin) * group;
  const size_t row_floats = padded + 16, part_floats = static_cast<size_t>(rows) * row_floats;
  for (int row = 0; row < rows; ++row) {
    // The first part's own memory becomes the running result.
    float* total = args.partials + item.partial + static_cast<size_t>(row) * row_floats;
    PartState state = {total[0], total[1]};
    for (int part = 1; part < item.parts; ++part) {
      const float* from = total + static_cast<size_t>(part) * part_floats;
      merge_part<V>(&state, total + 16, {from[0], from[1]}, from + 16, padded);
    }
    float* out =
        sequence.out + static_cast<size_t>(item.query_begin + row / group) * sequence.out_stride +
        (static_cast<size_t>(item.kv_head) * static_cast<size_t>(group) + static_cast<size_t>(row % group)) *
            head_dim;
    write_row<V>(out, total + 16, state.sum, head_dim);
  }
}

template <class V>
AttentionOps attention_ops() {
  return {V::name, attend<V>, combine<V>, store_kv<V>};
}

}  // namespace
}  // namespace filigree
