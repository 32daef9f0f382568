#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/step.h"
#include "kernels/attention/kv_layout.h"

namespace filigree {

// Rows that went through the layers before anybody asked: each the token just drawn in its slot. A step that then asks for one of
// them finds it by everything its result depends on; what it does not ask for is dropped, and computed again if it comes later.
class Ahead {
 public:
  struct Row {
    int32_t slot, token, position;
    size_t first_block, blocks;  // of blocks()
  };

  bool empty() const { return rows_.empty(); }
  const std::vector<Row>& rows() const { return rows_; }
  const int32_t* blocks(const Row& row) const { return blocks_.data() + row.first_block; }

  void clear() {
    rows_.clear();
    blocks_.clear();
  }

  // The entry's token after this one; false where the table has no room for its position.
  bool add(const StepEntry& entry, int32_t token) {
    const int32_t position = entry.position + static_cast<int32_t>(entry.tokens.size());
    const size_t needed = static_cast<size_t>(position) / KvLayout::block_tokens + 1;
    if (entry.blocks.size() < needed) return false;
    rows_.push_back({entry.slot, token, position, blocks_.size(), needed});
    blocks_.insert(blocks_.end(), entry.blocks.begin(),
                   entry.blocks.begin() + static_cast<ptrdiff_t>(needed));
    return true;
  }

  // Another request's tokens stand before the same position.
  void forget(int32_t slot) {
    for (Row& row : rows_) {
      if (row.slot == slot) row.slot = -1;
    }
  }

  // Its row, or -1.
  int32_t find(const StepEntry& entry) const {
    if (entry.tokens.size() != 1) return -1;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const Row& row = rows_[i];
      if (row.slot != entry.slot || row.token != entry.tokens[0] || row.position != entry.position) continue;
      const bool same = entry.blocks.size() >= row.blocks &&
                        std::equal(blocks(row), blocks(row) + row.blocks, entry.blocks.begin());
      return same ? static_cast<int32_t>(i) : -1;
    }
    return -1;
  }

 private:
  std::vector<Row> rows_;  // in the order of the backend's
  std::vector<int32_t> blocks_;
};

}  // namespace filigree
