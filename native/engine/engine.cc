#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/status.h"

namespace filigree {
namespace {

// Forced tokens of a row and a step; what is left follows in the next.
constexpr size_t kMostForced = 64;

int32_t within(const char* what, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return static_cast<int32_t>(value);
  throw Error(ErrorCode::invalid_argument, std::string(what) + " must be " + std::to_string(low) + " to " +
                                               std::to_string(high) + ", not " + std::to_string(value));
}

std::unique_ptr<Backend> make_backend(const ModelDescription& model, const EngineOptions& options,
                                      const CpuFeatures& cpu, ThreadPool& pool,
                                      const LoadProgress& progress) {
  const bool adapters = !options.adapters.empty();
  if (adapters && options.device == Device::cuda)
    throw Error(ErrorCode::unsupported, "adapters (LoRA) are served on the CPU only; take --device cpu");
  const bool cuda = options.device == Device::cuda ||
                    (options.device == Device::automatic && !adapters && cuda_obstacle().empty());
  if (!cuda && options.tensor_parallel > 1)
    throw Error(
        ErrorCode::unsupported,
        options.device == Device::cpu || adapters
            ? "--tensor-parallel divides a model among GPUs; the CPU has all its threads anyway (--threads)"
            : "--tensor-parallel: " + cuda_obstacle());
  return (cuda ? make_cuda_backend : make_cpu_backend)(model, options, cpu, pool, progress);
}

}  // namespace

uint32_t kv_block_count(uint64_t bytes_per_block, const EngineOptions& options) {
  const uint64_t needed =
      (static_cast<uint64_t>(options.max_model_len) + KvLayout::block_tokens - 1) / KvLayout::block_tokens;
  const uint64_t blocks = options.kv_bytes / bytes_per_block;
  if (blocks < needed) {
    throw Error(ErrorCode::invalid_argument,
                "a KV cache of " + std::to_string(options.kv_bytes >> 20) +
                    " MiB does not hold one sequence of " + std::to_string(options.max_model_len) +
                    " tokens (" + std::to_string((needed * bytes_per_block >> 20) + 1) +
                    " MiB); raise --kv-memory, lower --max-model-len, or choose --kv i8");
  }
  return static_cast<uint32_t>(std::min<uint64_t>(blocks, INT32_MAX / KvLayout::block_tokens));
}

std::unique_ptr<Engine> Engine::load(const ModelDescription& model, const EngineOptions& options,
                                     const LoadProgress& progress) {
  validate(model.config);
  within("the context length", options.max_model_len, 1, 1 << 24);
  within("the number of slots", options.max_slots, 1, 1 << 14);
  within("the token budget of a step", options.max_batched_tokens, 1, 1 << 20);
  return std::unique_ptr<Engine>(new Engine(model, options, progress));
}

Engine::Engine(const ModelDescription& model, const EngineOptions& options, const LoadProgress& progress)
    : config_(model.config),
      cpu_(restrict_to(detect_cpu(), options.isa)),
      pool_(options.threads > 0 ? options.threads : ThreadPool::default_threads()),
      vocabulary_(select_vocabulary(cpu_)) {
  backend_ = make_backend(model, options, cpu_, pool_, progress);
  slots_.resize(static_cast<size_t>(options.max_slots));
  for (int i = 0; i < pool_.size(); ++i) sample_workspaces_.emplace_back(config_.vocabulary);
  order_.reserve(static_cast<size_t>(options.max_slots));
  chunks_.reserve(backend_->max_rows());
  logit_rows_.reserve(backend_->max_rows() + static_cast<size_t>(options.max_slots));
  wanted_.reserve(backend_->max_logit_rows());
  undecided_.reserve(backend_->max_logit_rows());
  whole_rows_.reserve(backend_->max_logit_rows());
  pooled_rows_.reserve(backend_->max_rows());
  state_.resize(config_.hidden);

  const BackendInfo& backend = backend_->info();
  info_.threads = pool_.size();
  info_.device = backend.device;
  info_.isa = best_isa(cpu_);
  info_.hidden = config_.hidden;
  info_.limits = {options.max_slots, static_cast<int32_t>(backend.kv_blocks), options.max_model_len,
                  options.max_batched_tokens, static_cast<int32_t>(config_.vocabulary)};
  info_.weights = backend.weights;
  info_.warnings = backend.warnings;
  info_.kv_bytes = backend.kv_bytes;
  info_.kv_bytes_per_token = backend.kv_bytes_per_token;
  info_.workspace_bytes = backend.workspace_bytes;
  info_.adapter_bytes = backend.adapter_bytes;
  info_.adapters = static_cast<int32_t>(options.adapters.size());
  info_.look_ahead = options.look_ahead.value_or(backend_->asynchronous());
}

std::unique_ptr<Slot> Engine::make_slot(SamplingParams params, std::span<const int32_t> prompt,
                                        std::span<const int32_t> output,
                                        std::unique_ptr<grammar::Matcher> constraint, int32_t adapter) const {
  const size_t used = prompt.size() + output.size();
  const size_t room = static_cast<size_t>(info_.limits.max_model_len) + 1;
  if (used > room) {
    throw Error(ErrorCode::invalid_argument, "a request of " + std::to_string(used) +
                                                 " tokens exceeds the context of " +
                                                 std::to_string(info_.limits.max_model_len));
  }
  for (const int32_t token : prompt) {
    if (token < 0 || token >= info_.limits.vocabulary) {
      throw Error(ErrorCode::invalid_argument, "token id " + std::to_string(token) +
                                                   " is outside the vocabulary of " +
                                                   std::to_string(info_.limits.vocabulary));
    }
  }
  if (adapter != -1) within("the adapter", adapter, 0, int64_t{info_.adapters} - 1);
  std::vector<int32_t> kept;
  if (params.prompt_logprobs >= 0) kept.assign(prompt.begin(), prompt.end());
  if (constraint && constraint->grammar().vocabulary().size() != config_.vocabulary) {
    throw Error(ErrorCode::invalid_argument, "the constraint was compiled for another vocabulary");
  }
  // What was generated before a preemption is read again.
  for (const int32_t token : output) {
    if (constraint && !constraint->accept(token)) {
      throw Error(ErrorCode::internal, "an output does not satisfy its own constraint");
    }
  }
  std::vector<double> pooled(params.pooling == Pooling::none ? 0 : config_.hidden);
  auto slot =
      std::make_unique<Slot>(Slot{Sampler(std::move(params), prompt, output, config_.vocabulary, room - used),
                                  std::move(kept), prompt.size(), std::move(pooled)});
  slot->constraint = std::move(constraint);
  slot->adapter = adapter;
  return slot;
}

// Reserves each entry's place in the result.
void Engine::lay_out(const StepRecord& record, StepResult& result) {
  result.clear();
  result.outputs.resize(record.entries.size());
  size_t top = 0, prompt = 0, prompt_top = 0, sampled = 0, forced = 0;
  int32_t pooled = 0;
  for (size_t i = 0; i < record.entries.size(); ++i) {
    const StepEntry& entry = record.entries[i];
    const Slot& slot = *slots_[static_cast<size_t>(entry.slot)];
    const SamplingParams& params = slot.sampler.params();
    StepOutput& output = result.outputs[i];
    if (entry.sample) {
      ++sampled;
      output.top_begin = top;
      top += static_cast<size_t>(std::max(0, params.logprobs));
      // A token that is not drawn has no log-probability to report.
      if (slot.constraint && params.logprobs < 0) {
        output.forced_begin = forced;
        forced += kMostForced;
      }
    }
    if (!slot.pooled.empty() &&
        static_cast<size_t>(entry.position) + entry.tokens.size() == slot.prompt_length) {
      output.pooled = pooled++;
    }
    if (params.prompt_logprobs < 0) continue;
    const int64_t tokens = static_cast<int64_t>(entry.tokens.size());
    const int64_t left = static_cast<int64_t>(slot.prompt.size()) - 1 - entry.position;
    const int64_t first = int64_t{params.prompt_logprobs_from} - 1 - entry.position;
    output.prompt_first = static_cast<int32_t>(std::clamp<int64_t>(first, 0, tokens));
    output.prompt_rows =
        static_cast<int32_t>(std::max<int64_t>(0, std::min(left, tokens) - output.prompt_first));
    output.prompt_k = std::min(params.prompt_logprobs, static_cast<int32_t>(config_.vocabulary));
    output.prompt_begin = prompt;
    output.prompt_top_begin = prompt_top;
    prompt += static_cast<size_t>(output.prompt_rows);
    prompt_top += static_cast<size_t>(output.prompt_rows) * static_cast<size_t>(output.prompt_k);
  }
  result.forced_tokens.resize(forced);
  result.top_ids.resize(top);
  result.top_logprobs.resize(top);
  result.prompt_logprobs.resize(prompt);
  result.pooled.resize(static_cast<size_t>(pooled) * config_.hidden);
  result.prompt_top_ids.resize(prompt_top);
  result.prompt_top_logprobs.resize(prompt_top);
  if (record.keep_logits) result.logits.resize(sampled * config_.vocabulary);
}

// Entries in the order of their rows in the batch: as they came, but those of one adapter together.
void Engine::order_entries(const StepRecord& record) {
  order_.resize(record.entries.size());
  for (uint32_t i = 0; i < order_.size(); ++i) order_[i] = i;
  if (info_.adapters == 0) return;
  const auto adapter = [&](uint32_t i) {
    return slots_[static_cast<size_t>(record.entries[i].slot)]->adapter;
  };
  std::sort(order_.begin(), order_.end(),
            [&](uint32_t i, uint32_t j) { return std::pair(adapter(i), i) < std::pair(adapter(j), j); });
}

void Engine::step(const StepRecord& record, StepResult& result) {
  validate(record, info_.limits);
  for (const StepEntry& entry : record.entries) {
    if (!slots_[static_cast<size_t>(entry.slot)]) {
      throw Error(ErrorCode::invalid_argument, "slot " + std::to_string(entry.slot) + " is not open");
    }
  }
  lay_out(record, result);
  constrained_.clear();
  for (const StepEntry& entry : record.entries) {
    grammar::Matcher* constraint = slots_[static_cast<size_t>(entry.slot)]->constraint.get();
    if (entry.sample && constraint != nullptr) constrained_.push_back(constraint);
  }
  masks_.start(constrained_);
  // Whatever ends this step: the matchers are its slots', which may be closed next.
  const struct Waiter {
    MaskPrefetch& masks;
    ~Waiter() { masks.wait(); }
  } waiter{masks_};
  for (const BlockCopy& copy : record.copies) backend_->copy_block(copy.from, copy.to);

  uint32_t rows = 0;
  chunks_.clear();
  logit_rows_.clear();
  pooled_rows_.clear();
  result.ahead = static_cast<int32_t>(answer_ahead(record, result));
  order_entries(record);
  for (const uint32_t i : order_) {
    if (ahead_rows_[i] >= 0) continue;
    const StepEntry& entry = record.entries[i];
    const Slot& slot = *slots_[static_cast<size_t>(entry.slot)];
    const uint32_t total = static_cast<uint32_t>(entry.tokens.size());
    for (uint32_t done = 0; done < total;) {
      const uint32_t count = std::min(total - done, backend_->max_rows() - rows);
      const int32_t position = entry.position + static_cast<int32_t>(done);
      chunks_.push_back({entry.tokens.subspan(done, count), position, entry.blocks.data(), slot.adapter});
      for (uint32_t j = done; j < done + count; ++j) {
        const int32_t index = static_cast<int32_t>(j);
        const StepOutput& output = result.outputs[i];
        const int32_t prompt_row = index - output.prompt_first;
        if (prompt_row >= 0 && prompt_row < output.prompt_rows) {
          logit_rows_.push_back(
              {rows + j - done, i, prompt_row, slot.prompt[static_cast<size_t>(entry.position + index + 1)]});
        }
        if (entry.sample && j + 1 == total) logit_rows_.push_back({rows + j - done, i, -1, -1});
      }
      if (!slot.pooled.empty() && static_cast<size_t>(position) < slot.prompt_length) {
        const bool ends = done + count == total && result.outputs[i].pooled >= 0;
        pooled_rows_.push_back({rows, count, i, ends});
      }
      rows += count;
      done += count;
      if (rows == backend_->max_rows()) {
        run_rows(record, result);
        rows = 0;
      }
    }
  }
  if (rows > 0) run_rows(record, result);
  begin_next(record, result);
}

// Answers the entries that the step before has begun. Returns their number; those of them that are not asked for are dropped.
uint32_t Engine::answer_ahead(const StepRecord& record, StepResult& result) {
  uint32_t found = 0;
  ahead_rows_.assign(record.entries.size(), -1);
  for (uint32_t i = 0; i < record.entries.size() && !ahead_.empty(); ++i) {
    const StepEntry& entry = record.entries[i];
    const StepOutput& output = result.outputs[i];
    if (!entry.sample || output.prompt_rows > 0 || output.pooled >= 0) continue;
    ahead_rows_[i] = ahead_.find(entry);
    if (ahead_rows_[i] < 0) continue;
    logit_rows_.push_back({static_cast<uint32_t>(ahead_rows_[i]), i, -1, -1});
    ++found;
  }
  ahead_.clear();
  if (found > 0) answer_rows(record, result);
  return found;
}

// Sends the tokens just drawn through the layers, so that the device computes while the answer is on its way and the next step is
// being made.
void Engine::begin_next(const StepRecord& record, const StepResult& result) {
  if (!info_.look_ahead || held_.load(std::memory_order_relaxed)) return;
  for (uint32_t i = 0; i < record.entries.size() && ahead_.rows().size() < backend_->max_rows(); ++i) {
    const StepEntry& entry = record.entries[i];
    const Slot& slot = *slots_[static_cast<size_t>(entry.slot)];
    const int64_t position = int64_t{entry.position} + static_cast<int64_t>(entry.tokens.size());
    // Under a constraint, tokens may be forced behind the drawn one.
    if (!entry.next || result.outputs[i].token < 0 || slot.constraint || slot.adapter >= 0 ||
        position >= info_.limits.max_model_len)
      continue;
    ahead_.add(entry, result.outputs[i].token);
  }
  if (ahead_.empty()) return;
  for (const Ahead::Row& row : ahead_.rows())
    chunks_.push_back({{&row.token, 1}, row.position, ahead_.blocks(row)});
  try {
    backend_->forward(chunks_);
  } catch (const std::exception&) {
    ahead_.clear();  // this step is answered; the next meets what is wrong by itself
  }
  chunks_.clear();
}

// Runs the chunks gathered so far and answers the rows that wait for logits.
void Engine::run_rows(const StepRecord& record, StepResult& result) {
  backend_->forward(chunks_);
  answer_rows(record, result);
}

void Engine::answer_rows(const StepRecord& record, StepResult& result) {
  masks_.wait();
  pool_rows(record, result);
  for (size_t begin = 0; begin < logit_rows_.size(); begin += backend_->max_logit_rows()) {
    const size_t count = std::min<size_t>(backend_->max_logit_rows(), logit_rows_.size() - begin);
    const LogitRow* const rows = logit_rows_.data() + begin;
    wanted_.clear();
    for (size_t i = 0; i < count; ++i) wanted_.push_back({rows[i].row, digest_needed(rows[i], record)});
    const std::span<const LogitsRow> logits = backend_->logits(wanted_);
    // A token is drawn from a digest sooner than another thread wakes.
    undecided_.clear(), whole_rows_.clear();
    for (uint32_t i = 0; i < count; ++i) {
      if (logits[i].all) whole_rows_.push_back(i);
      if (!logits[i].all && !draw_digested(rows[i], logits[i].digest, record, result))
        undecided_.push_back(i);
    }
    if (!undecided_.empty()) backend_->complete(undecided_);
    whole_rows_.insert(whole_rows_.end(), undecided_.begin(), undecided_.end());
    const size_t whole = whole_rows_.size();
    if (whole == 0) continue;
    pool_.run(static_cast<int>(std::min<size_t>(whole, static_cast<size_t>(pool_.size()))),
              [&](int thread, int threads) {
                for (size_t i = static_cast<size_t>(thread); i < whole; i += static_cast<size_t>(threads))
                  finish_row(rows[whole_rows_[i]], logits[whole_rows_[i]].all, thread, record, result);
              });
  }
  chunks_.clear();
  logit_rows_.clear();
  pooled_rows_.clear();
}

// Sums in double and in the order of positions: the embedding is the same however its prompt was cut into chunks.
void Engine::pool_rows(const StepRecord& record, StepResult& result) {
  for (const PooledRows& rows : pooled_rows_) {
    Slot& slot = *slots_[static_cast<size_t>(record.entries[rows.entry].slot)];
    const bool mean = slot.sampler.params().pooling == Pooling::mean;
    for (uint32_t row = mean ? 0 : rows.count - 1; row < rows.count; ++row) {
      if (!mean && !rows.ends_prompt) break;
      backend_->final_state(rows.row + row, state_.data());
      for (uint32_t i = 0; i < config_.hidden; ++i) slot.pooled[i] += static_cast<double>(state_[i]);
    }
    if (!rows.ends_prompt) continue;
    StepOutput& output = result.outputs[rows.entry];
    float* out = result.pooled.data() + static_cast<size_t>(output.pooled) * config_.hidden;
    const double count = mean ? static_cast<double>(slot.prompt_length) : 1.0;
    for (uint32_t i = 0; i < config_.hidden; ++i) {
      out[i] = static_cast<float>(slot.pooled[i] / count);
      if (!std::isfinite(out[i])) output.status = RowStatus::non_finite_logits;
    }
  }
}

DigestNeeded Engine::digest_needed(const LogitRow& row, const StepRecord& record) const {
  const Slot& slot = *slots_[static_cast<size_t>(record.entries[row.entry].slot)];
  if (row.prompt_index >= 0 || record.keep_logits || slot.constraint) return {};
  return slot.sampler.needed();
}

bool Engine::draw_digested(const LogitRow& row, const LogitDigest& digest, const StepRecord& record,
                           StepResult& result) {
  Slot& slot = *slots_[static_cast<size_t>(record.entries[row.entry].slot)];
  const SampleResult sample = slot.sampler.sample(vocabulary_, digest);
  result.outputs[row.entry].token = sample.token;
  return sample.status == SampleStatus::ok;
}

void Engine::finish_row(const LogitRow& row, const float* logits, int thread, const StepRecord& record,
                        StepResult& result) {
  StepOutput& output = result.outputs[row.entry];
  SampleWorkspace& workspace = sample_workspaces_[static_cast<size_t>(thread)];
  if (row.prompt_index >= 0) {
    const size_t index = static_cast<size_t>(row.prompt_index);
    const float lse = log_sum_exp(vocabulary_, logits, config_.vocabulary);
    result.prompt_logprobs[output.prompt_begin + index] = logits[row.target] - lse;
    const size_t k = static_cast<size_t>(output.prompt_k), top = output.prompt_top_begin + index * k;
    if (k > 0) {
      top_logprobs(vocabulary_, logits, config_.vocabulary, lse, k, workspace.candidates(),
                   result.prompt_top_ids.data() + top, result.prompt_top_logprobs.data() + top);
    }
    // Rows of one entry may end on several threads; all of them write the same value.
    if (!std::isfinite(lse))
      std::atomic_ref(output.status).store(RowStatus::non_finite_logits, std::memory_order_relaxed);
    return;
  }
  if (record.keep_logits) {
    size_t sampled = 0;
    for (uint32_t i = 0; i < row.entry; ++i) sampled += record.entries[i].sample ? 1 : 0;
    std::memcpy(result.logits.data() + sampled * config_.vocabulary, logits,
                config_.vocabulary * sizeof(float));
  }
  Slot& slot = *slots_[static_cast<size_t>(record.entries[row.entry].slot)];
  const RowStatus status = sample_row(slot, logits, workspace, output, result);
  if (status != RowStatus::ok) std::atomic_ref(output.status).store(status, std::memory_order_relaxed);
}

RowStatus Engine::sample_row(Slot& slot, const float* logits, SampleWorkspace& workspace, StepOutput& output,
                             StepResult& result) {
  grammar::Matcher* matcher = slot.constraint.get();
  try {
    TokenConstraint constraint;
    if (matcher != nullptr) constraint = {matcher->mask().data(), matcher->exhausted()};
    const SampleResult sample =
        slot.sampler.sample(vocabulary_, logits, workspace, result.top_ids.data() + output.top_begin,
                            result.top_logprobs.data() + output.top_begin, constraint);
    if (sample.status == SampleStatus::non_finite_logits) return RowStatus::non_finite_logits;
    if (sample.status == SampleStatus::no_token_allowed) return RowStatus::no_token_allowed;
    if (matcher != nullptr) {
      if (!matcher->accept(sample.token)) return RowStatus::constraint_failed;
      if (slot.sampler.params().logprobs < 0) {
        std::vector<int32_t> forced;
        matcher->forced(kMostForced, forced);
        for (const int32_t token : forced) slot.sampler.append(token);
        std::copy(forced.begin(), forced.end(),
                  result.forced_tokens.begin() + static_cast<ptrdiff_t>(output.forced_begin));
        output.forced = static_cast<int32_t>(forced.size());
      }
    }
    output.token = sample.token;
    output.logprob = sample.logprob;
    output.top = sample.top;
    return RowStatus::ok;
  } catch (const std::exception&) {  // a constraint with too many readings, or no memory for them
    return RowStatus::constraint_failed;
  }
}

}  // namespace filigree
