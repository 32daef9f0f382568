#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace filigree {

// A step, as the scheduler describes it and as the engine answers: plain data, views into memory that the caller keeps.

struct StepEntry {
  int32_t slot = 0;
  std::span<const int32_t> tokens;  // of this chunk, at least one
  int32_t position = 0;             // of tokens[0] in its sequence
  std::span<const int32_t> blocks;  // physical blocks of positions 0 .. position + tokens.size() - 1
  bool sample = false;              // draw a token from the last position's logits
  bool next = false;  // the drawn token is likely to be the next step's entry; `blocks` has room for it
};

struct BlockCopy {
  int32_t from = 0, to = 0;
};

struct StepRecord {
  std::vector<StepEntry> entries;
  std::vector<BlockCopy> copies;  // done before anything else
  bool keep_logits = false;       // also return the raw logits of every sampled row (tests)
};

// constraint_failed: its text has too many readings to go on with.
enum class RowStatus : uint8_t { ok = 0, non_finite_logits = 1, no_token_allowed = 2, constraint_failed = 3 };

struct StepOutput {
  int32_t token = -1;  // -1: not sampled, or failed
  float logprob = 0;
  RowStatus status = RowStatus::ok;
  int32_t top = 0;              // entries of top_ids and top_logprobs that are this row's
  size_t top_begin = 0;         // first of them
  int32_t prompt_first = 0;     // first position of the chunk whose next token's log-probability is wanted
  int32_t prompt_rows = 0;      // positions from there on whose next token is in the prompt
  int32_t prompt_k = -1;        // -1: prompt log-probabilities were not asked for
  size_t prompt_begin = 0;      // first of prompt_logprobs
  int32_t pooled = -1;          // row of `pooled` that is this entry's; -1: its prompt does not end here
  size_t prompt_top_begin = 0;  // first of prompt_top_*: [prompt_rows][prompt_k]
  int32_t forced = 0;           // tokens that must follow the sampled one, under its constraint
  size_t forced_begin = 0;      // first of forced_tokens
};

// Reused from step to step: vectors keep their capacity, so a steady state allocates nothing.
struct StepResult {
  std::vector<StepOutput> outputs;  // in the order of the entries
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
  std::vector<float> prompt_logprobs;
  std::vector<int32_t> prompt_top_ids;
  std::vector<float> prompt_top_logprobs;
  std::vector<float> pooled;  // [entries whose prompt ends here and is pooled][hidden]
  std::vector<int32_t> forced_tokens;
  std::vector<float> logits;  // [sampled entries][vocabulary] with keep_logits
  int32_t ahead = 0;          // entries whose layers the step before had already begun

  void clear();
};

struct StepLimits {
  int32_t slots = 0, blocks = 0, max_model_len = 0, max_tokens = 0;
  int32_t vocabulary = 0;
};

// Throws invalid_argument naming the entry and the number that does not fit. Slots in use are checked by the engine.
void validate(const StepRecord& record, const StepLimits& limits);

}  // namespace filigree
