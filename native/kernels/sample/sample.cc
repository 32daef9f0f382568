#include "kernels/sample/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/status.h"

namespace filigree {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr float kLowest = std::numeric_limits<float>::lowest();
constexpr float kGreedyBelow = 1e-5f;  // vLLM's _SAMPLING_EPS
// Tokens this far below the likeliest, in units of temperature, have a weight under 1.2e-7 of its; a first look leaves them out.
constexpr float kNear = 16.0f;

bool heap_order(const Candidate& a, const Candidate& b) { return likelier(b, a); }

double weight(float logit, float max, float temperature) {
  return std::exp((static_cast<double>(logit) - max) / temperature);
}

void check_id(int32_t id, size_t vocabulary, const char* what) {
  if (id >= 0 && static_cast<size_t>(id) < vocabulary) return;
  throw Error(ErrorCode::invalid_argument, std::string(what) + ": token id " + std::to_string(id) +
                                               " is outside the vocabulary of " + std::to_string(vocabulary));
}

// Whole words of 64 tokens are mostly all allowed or all forbidden.
void keep_allowed(float* logits, size_t n, const uint64_t* allowed) {
  for (size_t begin = 0; begin < n; begin += 64) {
    const uint64_t word = allowed[begin / 64];
    if (word == ~uint64_t{0}) continue;
    const size_t count = std::min<size_t>(64, n - begin);
    for (size_t i = 0; i < count; ++i) {
      if ((word >> i & 1) == 0) logits[begin + i] = kNone;
    }
  }
}

// Draws from logits[0..n), a block at most.
size_t draw_in_block(const VocabularyOps& ops, const float* logits, size_t n, float max, float scale,
                     double target) {
  float weights[kVocabularyBlock];
  ops.exp_row(logits, n, max, scale, weights);
  size_t chosen = 0;
  for (size_t i = 0; i < n; ++i) {
    if (weights[i] <= 0) continue;
    chosen = i;
    if (target < weights[i]) break;
    target -= weights[i];
  }
  return chosen;
}

// Draws from the whole vocabulary in id order: find the block, then the token in it.
int32_t draw_from_all(const VocabularyOps& ops, const float* logits, size_t n, float max, float temperature,
                      double u, double* block_sums) {
  const float scale = 1.0f / temperature;
  const double total = ops.sum_exp(logits, n, max, scale, block_sums);
  double target = u * total;
  const size_t blocks = (n + kVocabularyBlock - 1) / kVocabularyBlock;
  size_t block = 0, last = 0;
  for (; block < blocks; ++block) {
    if (block_sums[block] > 0) last = block;
    if (target < block_sums[block]) break;
    target -= block_sums[block];
  }
  if (block == blocks) block = last;  // rounding carried the target past the end
  const size_t begin = block * kVocabularyBlock, count = std::min(kVocabularyBlock, n - begin);
  return static_cast<int32_t>(begin + draw_in_block(ops, logits + begin, count, max, scale, target));
}

// Draws from kept[0..n), whose weights sum to total.
int32_t draw_from(const Candidate* kept, size_t n, float max, float temperature, double target) {
  size_t chosen = 0;
  for (size_t i = 0; i < n; ++i) {
    const double w = weight(kept[i].logit, max, temperature);
    if (w <= 0) continue;
    chosen = i;
    if (target < w) break;
    target -= w;
  }
  return kept[chosen].id;
}

// What min_p keeps is not below it; -inf is never a candidate.
float lowest_kept(float max, const SamplingParams& p) {
  return p.min_p > 0 ? std::max(kLowest, max + p.temperature * std::log(p.min_p)) : kLowest;
}

double sum_weights(std::span<const Candidate> candidates, float max, float temperature) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += weight(c.logit, max, temperature);
  return sum;
}

// top_p, draw, where top_k has left kept[0..n), likeliest first, whose weights sum to total.
int32_t draw_from_top(const Candidate* kept, size_t n, float max, const SamplingParams& p, double total,
                      double u) {
  if (p.top_p < 1.0f) {
    double sum = 0;
    size_t i = 0;
    while (i < n && (i == 0 || sum < p.top_p * total)) sum += weight(kept[i++].logit, max, p.temperature);
    n = i;
    total = sum;
  }
  return draw_from(kept, n, max, p.temperature, u * total);
}

// min_p, top_k, top_p, draw, as below, from a digest; -1 where that does not say what is kept.
int32_t draw_digested(const LogitDigest& digest, size_t vocabulary, const SamplingParams& p, double u) {
  const std::span<const Candidate> largest = digest.largest;
  const float max = largest[0].logit, lower = lowest_kept(max, p);
  size_t n = largest.size();
  while (n > 0 && largest[n - 1].logit < lower) --n;
  const std::span<const Candidate> kept = largest.first(n);
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < vocabulary)
    return draw_from_top(kept.data(), n, max, p, sum_weights(kept, max, p.temperature), u);
  double mass = digest.total;
  if (p.min_p > 0) {
    if (n == largest.size() && n < vocabulary) return -1;
    Candidate ascending[kMostDigested];
    std::copy(kept.begin(), kept.end(), ascending);
    std::sort(ascending, ascending + n, [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
    mass = sum_weights({ascending, n}, max, p.temperature);
    if (p.top_p >= 1.0f) return draw_from(ascending, n, max, p.temperature, u * mass);
  }
  double total = 0;
  for (size_t i = 0; i < n;) {
    total += weight(kept[i++].logit, max, p.temperature);
    if (total >= p.top_p * mass || (p.min_p > 0 && i == n))
      return draw_from(kept.data(), i, max, p.temperature, u * total);
  }
  return -1;
}

// min_p, top_k, top_p, draw. Candidates are the tokens near the likeliest, and all of them only where those do not suffice; they
// are taken from a heap, likeliest first, until top_k or top_p is satisfied, so that nothing beyond what is kept gets sorted.
int32_t draw_filtered(const VocabularyOps& ops, const float* logits, size_t n, float max,
                      const SamplingParams& p, double u, Candidate* candidates) {
  const float temperature = p.temperature;
  const float lower = lowest_kept(max, p);
  const float near = max - kNear * temperature;
  const bool use_top_k = p.top_k > 0 && static_cast<size_t>(p.top_k) < n, use_top_p = p.top_p < 1.0f;

  bool complete = lower >= near;
  // What top_p is a share of: all that min_p leaves, unless top_k says less. A min_p below `near` needs the whole list for it.
  if (!use_top_k && (!use_top_p || p.min_p > 0)) complete = true;
  size_t count = ops.collect(logits, n, complete ? lower : near, candidates);
  const auto collect_all = [&] {
    complete = true;
    count = ops.collect(logits, n, lower, candidates);
  };
  if (use_top_k && !complete && count < static_cast<size_t>(p.top_k)) collect_all();

  if (!use_top_k && !use_top_p)
    return draw_from(candidates, count, max, temperature,
                     u * sum_weights({candidates, count}, max, temperature));

  double mass = 0;  // that top_p is a share of, where top_k does not define it
  if (!use_top_k) {
    mass = complete ? sum_weights({candidates, count}, max, temperature)
                    : ops.sum_exp(logits, n, max, 1.0f / temperature, nullptr);
  }
  while (true) {
    std::make_heap(candidates, candidates + count, heap_order);
    // Popped candidates gather at the end of the array, the likeliest last.
    const size_t most = use_top_k ? std::min(count, static_cast<size_t>(p.top_k)) : count;
    size_t kept = 0;
    double total = 0;
    while (kept < most) {
      std::pop_heap(candidates, candidates + (count - kept), heap_order);
      ++kept;
      total += weight(candidates[count - kept].logit, max, temperature);
      if (!use_top_k && total >= p.top_p * mass) break;
    }
    if (!use_top_k && !complete && total < p.top_p * mass) {
      collect_all();
      continue;
    }
    std::reverse(candidates + (count - kept), candidates + count);
    const Candidate* first = candidates + (count - kept);
    return use_top_k ? draw_from_top(first, kept, max, p, total, u)
                     : draw_from(first, kept, max, temperature, u * total);
  }
}

}  // namespace

SampleWorkspace::SampleWorkspace(size_t vocabulary)
    : vocabulary_(vocabulary),
      candidates_(vocabulary * sizeof(Candidate)),
      logits_(vocabulary * sizeof(float)),
      block_sums_((vocabulary / kVocabularyBlock + 1) * sizeof(double)) {}

Sampler::Sampler(SamplingParams params, std::span<const int32_t> prompt, std::span<const int32_t> output,
                 size_t vocabulary, size_t max_outputs)
    : params_(std::move(params)), vocabulary_(vocabulary) {
  const SamplingParams& p = params_;
  for (const auto& [id, value] : p.logit_bias) check_id(id, vocabulary, "logit_bias");
  for (int32_t id : p.suppressed_until_min) check_id(id, vocabulary, "stop_token_ids");
  if (p.allowed_token_ids) {
    if (p.allowed_token_ids->empty()) {
      throw Error(ErrorCode::invalid_argument,
                  "allowed_token_ids is empty; leave it out to allow every token");
    }
    for (int32_t id : *p.allowed_token_ids) check_id(id, vocabulary, "allowed_token_ids");
  }
  for (const std::vector<int32_t>& word : p.bad_words) {
    if (word.empty()) throw Error(ErrorCode::invalid_argument, "bad_words holds an empty token sequence");
    for (int32_t id : word) check_id(id, vocabulary, "bad_words");
    tail_limit_ = std::max(tail_limit_, word.size() - 1);
  }
  tail_.reserve(tail_limit_ + 1);
  for (int32_t id : prompt) check_id(id, vocabulary, "prompt");
  for (int32_t id : output) check_id(id, vocabulary, "output");

  penalties_ = p.repetition_penalty != 1.0f || p.frequency_penalty != 0.0f || p.presence_penalty != 0.0f;
  filters_ = p.min_p > 0 || p.top_p < 1.0f || (p.top_k > 0 && static_cast<size_t>(p.top_k) < vocabulary);
  if (penalties_) {
    const size_t tokens = std::min(vocabulary, prompt.size() + output.size() + max_outputs);
    size_t slots = 16;
    while (slots < 2 * tokens) slots *= 2;
    table_.resize(slots);
    distinct_.reserve(slots / 2 + 1);
    for (int32_t id : prompt) find(id).in_prompt = true;
  }
  for (int32_t id : output) count(id);
}

Sampler::TokenCount& Sampler::find(int32_t id) {
  if (distinct_.size() * 2 > table_.size()) {  // more outputs than announced
    std::vector<TokenCount> old(table_.size() * 2);
    old.swap(table_);
    distinct_.clear();
    for (const TokenCount& entry : old) {
      if (entry.id >= 0) find(entry.id) = entry;
    }
  }
  const size_t mask = table_.size() - 1;
  size_t slot = (static_cast<uint32_t>(id) * 2654435769u) & mask;
  while (table_[slot].id != id) {
    if (table_[slot].id < 0) {
      table_[slot].id = id;
      distinct_.push_back(static_cast<int32_t>(slot));
      break;
    }
    slot = (slot + 1) & mask;
  }
  return table_[slot];
}

void Sampler::count(int32_t token) {
  ++output_count_;
  if (penalties_) ++find(token).output;
  if (tail_limit_ > 0) {
    if (tail_.size() == tail_limit_) tail_.erase(tail_.begin());
    tail_.push_back(token);
  }
}

bool Sampler::changes_logits() const {
  return penalties_ || params_.allowed_token_ids || !params_.bad_words.empty() ||
         !params_.logit_bias.empty() ||
         (output_count_ < params_.min_tokens && !params_.suppressed_until_min.empty());
}

bool Sampler::greedy() const { return params_.temperature < kGreedyBelow || params_.top_k == 1; }

double Sampler::uniform() const { return random_uniform(params_.seed, static_cast<uint64_t>(output_count_)); }

void Sampler::forbid_bad_words(float* logits) const {
  for (const std::vector<int32_t>& word : params_.bad_words) {
    const size_t before = word.size() - 1;
    if (tail_.size() < before) continue;
    if (std::equal(word.begin(), word.end() - 1, tail_.end() - static_cast<ptrdiff_t>(before))) {
      logits[word.back()] = kNone;
    }
  }
}

void Sampler::process(float* logits, bool ends) const {
  forbid_bad_words(logits);
  if (output_count_ < params_.min_tokens && !ends) {
    for (int32_t id : params_.suppressed_until_min) logits[id] = kNone;
  }
  for (const auto& [id, value] : params_.logit_bias) logits[id] += value;
  for (int32_t slot : distinct_) {
    const TokenCount& seen = table_[static_cast<size_t>(slot)];
    float& logit = logits[seen.id];
    logit = logit > 0 ? logit / params_.repetition_penalty : logit * params_.repetition_penalty;
    if (seen.output > 0) {
      logit -= params_.frequency_penalty * static_cast<float>(seen.output) + params_.presence_penalty;
    }
  }
}

SampleResult Sampler::sample(const VocabularyOps& ops, const float* logits, SampleWorkspace& workspace,
                             int32_t* top_ids, float* top_values, TokenConstraint constraint) {
  SampleResult result;
  const size_t n = vocabulary_;
  LogitScan scan = ops.scan(logits, n);
  if (!scan.finite) {
    result.status = SampleStatus::non_finite_logits;
    return result;
  }
  float lse = 0;
  if (params_.logprobs >= 0) {
    lse = log_sum_exp(ops, logits, n);
    result.top = static_cast<int32_t>(top_logprobs(ops, logits, n, lse, static_cast<size_t>(params_.logprobs),
                                                   workspace.candidates(), top_ids, top_values));
  }
  const float* x = logits;
  if (changes_logits() || constraint.allowed != nullptr) {
    float* copy = workspace.logits();
    if (params_.allowed_token_ids) {
      std::fill(copy, copy + n, kNone);
      for (int32_t id : *params_.allowed_token_ids) copy[id] = logits[id];
    } else {
      std::copy(logits, logits + n, copy);
    }
    if (constraint.allowed != nullptr) keep_allowed(copy, n, constraint.allowed);
    process(copy, constraint.ends);
    scan = ops.scan(copy, n);
    x = copy;
  }
  if (scan.max == kNone) {
    result.status = SampleStatus::no_token_allowed;
    return result;
  }
  if (!std::isfinite(scan.max)) {
    result.status = SampleStatus::non_finite_logits;
    return result;
  }
  if (greedy()) {
    result.token = scan.argmax;
  } else {
    const double u = uniform();
    result.token = filters_
                       ? draw_filtered(ops, x, n, scan.max, params_, u, workspace.candidates())
                       : draw_from_all(ops, x, n, scan.max, params_.temperature, u, workspace.block_sums());
  }
  if (params_.logprobs >= 0) result.logprob = logits[result.token] - lse;
  count(result.token);
  return result;
}

DigestNeeded Sampler::needed() const {
  if (changes_logits() || params_.logprobs >= 0) return {};
  if (greedy()) return {.largest = 1};
  if (!filters_) return {1, 1.0f / params_.temperature, uniform()};
  if (params_.top_k > 0 && static_cast<size_t>(params_.top_k) < vocabulary_)
    return {.largest = params_.top_k <= int32_t{kMostDigested} ? static_cast<uint32_t>(params_.top_k) : 0};
  return {kMostDigested, params_.min_p > 0 ? 0 : 1.0f / params_.temperature, -1};
}

SampleResult Sampler::sample(const VocabularyOps& ops, const LogitDigest& digest) {
  SampleResult result;
  const float max = digest.largest[0].logit;
  if (greedy()) {
    result.token = digest.largest[0].id;
  } else if (!filters_) {
    result.token =
        static_cast<int32_t>(digest.block + draw_in_block(ops, digest.logits.data(), digest.logits.size(),
                                                          max, 1.0f / params_.temperature, digest.rest));
  } else {
    result.token = draw_digested(digest, vocabulary_, params_, uniform());
  }
  if (result.token < 0) {
    result.status = SampleStatus::undecided;
    return result;
  }
  count(result.token);
  return result;
}

float log_sum_exp(const VocabularyOps& ops, const float* logits, size_t n) {
  const LogitScan scan = ops.scan(logits, n);
  return static_cast<float>(scan.max + std::log(ops.sum_exp(logits, n, scan.max, 1.0f, nullptr)));
}

size_t top_logprobs(const VocabularyOps& ops, const float* logits, size_t n, float lse, size_t k,
                    Candidate* scratch, int32_t* ids, float* logprobs) {
  k = std::min(k, n);
  if (k == 0) return 0;
  const float max = ops.scan(logits, n).max;
  size_t count = ops.collect(logits, n, max - 8.0f, scratch);
  if (count < k) count = ops.collect(logits, n, max - 32.0f, scratch);
  if (count < k) count = ops.collect(logits, n, kNone, scratch);
  k = std::min(k, count);
  std::partial_sort(scratch, scratch + k, scratch + count, likelier);
  for (size_t i = 0; i < k; ++i) {
    ids[i] = scratch[i].id;
    logprobs[i] = scratch[i].logit - lse;
  }
  return k;
}

}  // namespace filigree
