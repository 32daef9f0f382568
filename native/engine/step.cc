#include "engine/step.h"

#include "base/status.h"
#include "kernels/attention/kv_layout.h"

namespace filigree {
namespace {

[[noreturn]] void refuse(size_t entry, const std::string& what) {
  throw Error(ErrorCode::invalid_argument, "step entry " + std::to_string(entry) + ": " + what);
}

}  // namespace

void StepResult::clear() {
  outputs.clear();
  top_ids.clear();
  top_logprobs.clear();
  prompt_logprobs.clear();
  prompt_top_ids.clear();
  prompt_top_logprobs.clear();
  pooled.clear();
  forced_tokens.clear();
  logits.clear();
  ahead = 0;
}

void validate(const StepRecord& record, const StepLimits& limits) {
  constexpr int64_t kBlock = KvLayout::block_tokens;
  int64_t total = 0;
  for (size_t i = 0; i < record.entries.size(); ++i) {
    const StepEntry& entry = record.entries[i];
    if (entry.slot < 0 || entry.slot >= limits.slots) {
      refuse(i, "slot " + std::to_string(entry.slot) + " is not one of " + std::to_string(limits.slots));
    }
    if (entry.tokens.empty()) refuse(i, "it has no tokens");
    const int64_t count = static_cast<int64_t>(entry.tokens.size());
    total += count;
    if (entry.position < 0 || entry.position + count > limits.max_model_len) {
      refuse(i, "positions " + std::to_string(entry.position) + " to " +
                    std::to_string(entry.position + count - 1) + " do not fit a context of " +
                    std::to_string(limits.max_model_len));
    }
    const int64_t needed = (entry.position + count + kBlock - 1) / kBlock;
    if (static_cast<int64_t>(entry.blocks.size()) < needed) {
      refuse(i, "its block table holds " + std::to_string(entry.blocks.size()) + " of " +
                    std::to_string(needed) + " blocks");
    }
    for (const int32_t block : entry.blocks) {
      if (block < 0 || block >= limits.blocks) {
        refuse(i, "block " + std::to_string(block) + " is not one of " + std::to_string(limits.blocks));
      }
    }
    for (const int32_t token : entry.tokens) {
      if (token < 0 || token >= limits.vocabulary) {
        refuse(i, "token id " + std::to_string(token) + " is outside the vocabulary of " +
                      std::to_string(limits.vocabulary));
      }
    }
    for (size_t j = 0; j < i; ++j) {
      if (record.entries[j].slot == entry.slot)
        refuse(i, "slot " + std::to_string(entry.slot) + " appears twice");
    }
  }
  if (total > limits.max_tokens) {
    throw Error(ErrorCode::invalid_argument, "a step of " + std::to_string(total) +
                                                 " tokens exceeds the budget of " +
                                                 std::to_string(limits.max_tokens));
  }
  for (const BlockCopy& copy : record.copies) {
    if (copy.from < 0 || copy.from >= limits.blocks || copy.to < 0 || copy.to >= limits.blocks) {
      throw Error(ErrorCode::invalid_argument, "copy of block " + std::to_string(copy.from) + " to " +
                                                   std::to_string(copy.to) + ": there are " +
                                                   std::to_string(limits.blocks) + " blocks");
    }
  }
}

}  // namespace filigree
