#pragma once

#include <cstring>

#include "base/aligned_buffer.h"
#include "kernels/attention/kv_layout.h"

namespace filigree {

// The paged KV cache: [layer][block], each block 16 positions of one layer. Pages of the operating system are touched when a
// block is first written, so an arena may be larger than what a quiet server ever uses.
class KvArena {
 public:
  KvArena(const KvLayout& layout, uint32_t layers, uint32_t blocks)
      : layout_(layout),
        layers_(layers),
        blocks_(blocks),
        memory_(layout.bytes_per_block() * blocks * layers) {}

  const KvLayout& layout() const { return layout_; }
  uint32_t blocks() const { return blocks_; }
  size_t bytes() const { return memory_.size(); }
  std::byte* layer(uint32_t layer) { return memory_.data() + layout_.bytes_per_block() * blocks_ * layer; }
  std::byte* block(uint32_t layer_index, int32_t index) {
    return layer(layer_index) + layout_.bytes_per_block() * static_cast<size_t>(index);
  }

  void copy_block(int32_t from, int32_t to) {
    if (from == to) return;
    for (uint32_t l = 0; l < layers_; ++l)
      std::memcpy(block(l, to), block(l, from), layout_.bytes_per_block());
  }

 private:
  KvLayout layout_;
  uint32_t layers_, blocks_;
  AlignedBuffer memory_;
};

}  // namespace filigree
