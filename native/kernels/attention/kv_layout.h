#pragma once

#include <cstddef>
#include <cstdint>

namespace filigree {

// fp8 (e4m3) is a GPU's alone.
enum class KvType : uint8_t { f32, f16, bf16, i8, fp8 };

// How one layer's keys and values of 16 consecutive positions lie in a block of the KV arena.
//
// A block holds its KV heads one after the other, so that a work item (one KV head) reads one contiguous run per block:
//   keys    [padded_dim][16 tokens]   transposed: a vector of 16 scores is a sum of broadcast(q[d]) * keys[d]
//   values  [16 tokens][padded_dim]
//   i8 only: key scales [16] f32, value scales [16] f32, one per (token, head); value = scale * code
// padded_dim is head_dim rounded up to 16; the padding of the values is zero.
// A block may hold anything in slots that were not stored yet: masked positions are never multiplied.
struct KvLayout {
  static constexpr int block_tokens = 16;

  KvType type = KvType::f16;
  int kv_heads = 0;
  int head_dim = 0;

  size_t element_bytes() const { return type == KvType::f32 ? 4 : type == KvType::i8 ? 1 : 2; }
  size_t padded_dim() const { return (static_cast<size_t>(head_dim) + 15) / 16 * 16; }
  size_t values_offset() const { return padded_dim() * block_tokens * element_bytes(); }
  size_t key_scales_offset() const { return 2 * values_offset(); }
  size_t value_scales_offset() const { return key_scales_offset() + block_tokens * sizeof(float); }
  size_t head_bytes() const {
    return 2 * values_offset() + (type == KvType::i8 ? 2 * block_tokens * sizeof(float) : 0);
  }
  // A multiple of 64.
  size_t bytes_per_block() const { return head_bytes() * static_cast<size_t>(kv_heads); }
};

}  // namespace filigree
