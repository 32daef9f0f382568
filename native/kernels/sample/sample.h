#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/sample/digest.h"
#include "kernels/sample/vocabulary.h"

namespace filigree {

// What an embedding is made of: all positions of the prompt, or its last.
enum class Pooling : uint8_t { none, mean, last };

// What a request asks of its sampler; names and meanings are vLLM's. Everything here has been validated by the layer above
// except token ids, which create_sampler checks against the vocabulary.
struct SamplingParams {
  float temperature = 1.0f;  // below 1e-5: greedy
  int32_t top_k = 0;         // 0 or less = off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;
  int32_t logprobs = -1;             // -1 none; k: of the chosen token and of the k likeliest
  int32_t prompt_logprobs = -1;      // likewise; not used here, carried for the engine
  int32_t prompt_logprobs_from = 1;  // first token of the prompt whose log-probability is wanted; likewise
  Pooling pooling = Pooling::none;   // likewise carried
  int32_t min_tokens = 0;
  std::vector<int32_t> suppressed_until_min;              // end and stop ids
  std::optional<std::vector<int32_t>> allowed_token_ids;  // nothing else may be chosen
  std::vector<std::vector<int32_t>> bad_words;            // token sequences that may not be completed
};

// undecided: only the whole row can tell.
enum class SampleStatus : uint8_t { ok, non_finite_logits, no_token_allowed, undecided };

inline bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

struct SampleResult {
  SampleStatus status = SampleStatus::ok;
  int32_t token = -1;
  float logprob =
      0.0f;  // of the token in the raw distribution (before penalties and temperature), if logprobs >= 0
  int32_t top = 0;  // entries written to top_ids and top_logprobs
};

// What a constraint says of the next token, whatever computed it.
struct TokenConstraint {
  const uint64_t* allowed = nullptr;  // one bit a token, 64 to a word; null = every token
  bool ends = false;                  // nothing but the end may follow: it is allowed before min_tokens
};

// Scratch memory for one sample() call at a time.
class SampleWorkspace {
 public:
  explicit SampleWorkspace(size_t vocabulary);
  Candidate* candidates() { return candidates_.as<Candidate>(); }
  float* logits() { return logits_.as<float>(); }
  double* block_sums() { return block_sums_.as<double>(); }
  size_t vocabulary() const { return vocabulary_; }

 private:
  size_t vocabulary_;
  AlignedBuffer candidates_, logits_, block_sums_;
};

// The sampler of one request: its parameters, the counts its penalties need, its place in its random stream.
//
// Order of operations, as in vLLM: the constraint, allowed ids and bad words, min_tokens, logit bias, penalties, then (unless greedy)
// temperature, min_p, top_k, top_p, draw. Token n of a request is drawn with the n-th number of the Philox stream its seed
// selects, so it does not matter when, where or beside whom it is drawn. All variants choose the same token.
class Sampler {
 public:
  // `prompt` and `output` (the tokens a preempted request had already generated) feed the penalties; the random stream goes on
  // after `output`. Allocates for up to max_outputs more tokens. Throws invalid_argument for an id outside the vocabulary.
  Sampler(SamplingParams params, std::span<const int32_t> prompt, std::span<const int32_t> output,
          size_t vocabulary, size_t max_outputs);

  // Chooses the next token from logits [vocabulary], and counts it. Writes up to params().logprobs entries, likeliest first
  // (ties: lowest id first), to top_ids and top_logprobs. Does not change the logits. Allocates nothing.
  SampleResult sample(const VocabularyOps& ops, const float* logits, SampleWorkspace& workspace,
                      int32_t* top_ids, float* top_logprobs, TokenConstraint constraint = {});

  // What of the row's digest chooses the next token as the row itself does.
  DigestNeeded needed() const;

  // The same from a digest that holds what is needed(); or undecided, with nothing counted.
  SampleResult sample(const VocabularyOps& ops, const LogitDigest& digest);

  // Counts a token that was not drawn, because nothing else could follow.
  void append(int32_t token) { count(token); }

  const SamplingParams& params() const { return params_; }
  int64_t output_count() const { return output_count_; }

 private:
  struct TokenCount {
    int32_t id = -1;  // -1 = free
    int32_t output = 0;
    bool in_prompt = false;
  };

  bool changes_logits() const;
  bool greedy() const;
  double uniform() const;  // of the next token
  void count(int32_t token);
  TokenCount& find(int32_t id);
  void process(float* logits, bool ends) const;
  void forbid_bad_words(float* logits) const;

  SamplingParams params_;
  size_t vocabulary_;
  bool penalties_;
  int64_t output_count_ = 0;
  std::vector<TokenCount> table_;  // open addressing, a power of two; empty without penalties
  std::vector<int32_t> distinct_;  // slots of table_ in use
  std::vector<int32_t> tail_;      // the last outputs, as many as the longest bad word needs, oldest first
  size_t tail_limit_ = 0;
  bool filters_ = false;
};

// log(sum(exp(logits))). Non-finite logits give a non-finite result.
float log_sum_exp(const VocabularyOps& ops, const float* logits, size_t n);

// The k largest logits, likeliest first, ties by lowest id, as log-probabilities (logit - lse). Returns min(k, n).
size_t top_logprobs(const VocabularyOps& ops, const float* logits, size_t n, float lse, size_t k,
                    Candidate* scratch /* [n] */, int32_t* ids, float* logprobs);

// Philox4x32-10 (Salmon et al., SC 2011): four random words for a key and a counter.
struct PhiloxWords {
  uint32_t word[4];
};
PhiloxWords philox4x32(uint64_t key, uint64_t counter_low, uint64_t counter_high);

// The n-th uniform of the stream `seed`, in [0, 1), 53 bits.
double random_uniform(uint64_t seed, uint64_t n);

}  // namespace filigree
