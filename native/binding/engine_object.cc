#include "binding/engine_object.h"

#include <chrono>
#include <utility>

#include "base/status.h"
#include "binding/grammar_object.h"
#include "binding/js_config.h"

namespace filigree::js {
namespace {

// A record as copied from JS: the spans of `record` point into the vectors beside it.
struct StepTask {
  std::vector<int32_t> tokens, blocks;
  StepRecord record;
};

constexpr size_t kEntryFields = 5;  // slot, position, tokens, blocks, sample (2: and likely to go on)
// token, status, top, top_begin, prompt_rows, prompt_k, prompt_begin, prompt_top_begin, pooled, forced, forced_begin
constexpr size_t kOutputFields = 11;

std::shared_ptr<StepTask> step_task(const Napi::CallbackInfo& info) {
  auto task = std::make_shared<StepTask>();
  const auto entries = Field(info[0], "entries").int32_array();
  const auto tokens = Field(info[1], "tokens").int32_array();
  const auto blocks = Field(info[2], "blocks").int32_array();
  const auto copies = Field(info[3], "copies").int32_array();
  const auto refuse = [&](const char* what) { throw Napi::RangeError::New(info.Env(), what); };
  if (entries.size() % kEntryFields != 0) refuse("entries must hold five numbers each");
  if (copies.size() % 2 != 0) refuse("copies must hold two numbers each");
  task->tokens.assign(tokens.begin(), tokens.end());
  task->blocks.assign(blocks.begin(), blocks.end());
  size_t token = 0, block = 0;
  for (size_t i = 0; i < entries.size(); i += kEntryFields) {
    const int32_t n_tokens = entries[i + 2], n_blocks = entries[i + 3];
    if (n_tokens < 0 || static_cast<size_t>(n_tokens) > tokens.size() - token || n_blocks < 0 ||
        static_cast<size_t>(n_blocks) > blocks.size() - block) {
      refuse("an entry counts more tokens or blocks than were passed");
    }
    StepEntry entry;
    entry.slot = entries[i];
    entry.position = entries[i + 1];
    entry.tokens = std::span<const int32_t>(task->tokens).subspan(token, static_cast<size_t>(n_tokens));
    entry.blocks = std::span<const int32_t>(task->blocks).subspan(block, static_cast<size_t>(n_blocks));
    entry.sample = entries[i + 4] != 0;
    entry.next = entries[i + 4] == 2;
    task->record.entries.push_back(entry);
    token += static_cast<size_t>(n_tokens);
    block += static_cast<size_t>(n_blocks);
  }
  if (token != tokens.size() || block != blocks.size())
    refuse("tokens or blocks were passed that no entry counts");
  for (size_t i = 0; i < copies.size(); i += 2) task->record.copies.push_back({copies[i], copies[i + 1]});
  task->record.keep_logits = Field(info[4], "keepLogits").boolean_or(false);
  return task;
}

Napi::Object to_js(Napi::Env env, const StepResult& result) {
  std::vector<int32_t> outputs;
  std::vector<float> logprobs;
  outputs.reserve(result.outputs.size() * kOutputFields);
  for (const StepOutput& o : result.outputs) {
    for (const int64_t field :
         {int64_t{o.token}, static_cast<int64_t>(o.status), int64_t{o.top}, static_cast<int64_t>(o.top_begin),
          int64_t{o.prompt_rows}, int64_t{o.prompt_k}, static_cast<int64_t>(o.prompt_begin),
          static_cast<int64_t>(o.prompt_top_begin), int64_t{o.pooled}, int64_t{o.forced},
          static_cast<int64_t>(o.forced_begin)}) {
      outputs.push_back(static_cast<int32_t>(field));
    }
    logprobs.push_back(o.logprob);
  }
  auto out = Napi::Object::New(env);
  out.Set("outputs", to_int32(env, outputs));
  out.Set("logprobs", to_float32(env, logprobs));
  out.Set("topIds", to_int32(env, result.top_ids));
  out.Set("topLogprobs", to_float32(env, result.top_logprobs));
  out.Set("promptLogprobs", to_float32(env, result.prompt_logprobs));
  out.Set("promptTopIds", to_int32(env, result.prompt_top_ids));
  out.Set("promptTopLogprobs", to_float32(env, result.prompt_top_logprobs));
  out.Set("pooled", to_float32(env, result.pooled));
  out.Set("forcedTokens", to_int32(env, result.forced_tokens));
  out.Set("logits", to_float32(env, result.logits));
  out.Set("ahead", Napi::Number::New(env, result.ahead));
  return out;
}

Napi::Object to_js(Napi::Env env, const EngineInfo& info) {
  const auto number = [&](auto value) { return Napi::Number::New(env, static_cast<double>(value)); };
  auto formats = Napi::Object::New(env);
  for (const auto& [name, bytes] : info.weights.formats) formats.Set(name, number(bytes));
  auto warnings = Napi::Array::New(env);
  for (const std::string& warning : info.warnings)
    warnings.Set(warnings.Length(), Napi::String::New(env, warning));
  const WeightStatistics& w = info.weights;
  auto out = Napi::Object::New(env);
  out.Set("vocabSize", number(info.limits.vocabulary));
  out.Set("hiddenSize", number(info.hidden));
  out.Set("maxModelLen", number(info.limits.max_model_len));
  out.Set("numBlocks", number(info.limits.blocks));
  out.Set("maxSlots", number(info.limits.slots));
  out.Set("maxBatchedTokens", number(info.limits.max_tokens));
  out.Set("threads", number(info.threads));
  out.Set("device", Napi::String::New(env, info.device));
  out.Set("isa", Napi::String::New(env, info.isa));
  out.Set("weightBytes", number(w.bytes));
  out.Set("decodeWeightBytes", number(w.decode_bytes));
  out.Set("denseF32Bytes", number(w.dense_f32_bytes));
  out.Set("sparsity",
          number(w.elements == 0 ? 0.0 : static_cast<double>(w.zeros) / static_cast<double>(w.elements)));
  out.Set("formats", formats);
  out.Set("kvBytes", number(info.kv_bytes));
  out.Set("kvBytesPerToken", number(info.kv_bytes_per_token));
  out.Set("workspaceBytes", number(info.workspace_bytes));
  out.Set("adapterBytes", number(info.adapter_bytes));
  out.Set("fromCache", Napi::Boolean::New(env, w.from_cache));
  out.Set("lookAhead", Napi::Boolean::New(env, info.look_ahead));
  out.Set("warnings", warnings);
  return out;
}

}  // namespace

void EngineObject::define(Napi::Env env, Napi::Object exports) {
  exports.Set("Engine", DefineClass(env, "Engine",
                                    {InstanceMethod<&EngineObject::load>("load"),
                                     InstanceMethod<&EngineObject::step>("step"),
                                     InstanceMethod<&EngineObject::close>("close"),
                                     InstanceMethod<&EngineObject::open_slot>("openSlot"),
                                     InstanceMethod<&EngineObject::close_slot>("closeSlot"),
                                     InstanceMethod<&EngineObject::hold>("hold")}));
}

EngineObject::EngineObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<EngineObject>(info),
      env_(info.Env()),
      settlement_(std::make_shared<Settlement>(info.Env())),
      host_(std::make_shared<Host>()),
      thread_(std::make_unique<EngineThread>()) {
  napi_add_env_cleanup_hook(env_, on_env_cleanup, this);
}

EngineObject::~EngineObject() {
  // The backstop: whoever forgot close() still gets the memory back, on the thread that allocated it.
  if (!thread_) return;  // the environment went away first, and the hook with it
  napi_remove_env_cleanup_hook(env_, on_env_cleanup, this);
  shut_down();
}

void EngineObject::on_env_cleanup(void* self) { static_cast<EngineObject*>(self)->shut_down(); }

void EngineObject::shut_down() {
  state_ = State::closed;
  thread_->post([host = host_] { host->engine.reset(); });
  thread_.reset();
  settlement_->close();
}

void EngineObject::require_ready(Napi::Env env) const {
  if (state_ == State::ready) return;
  throw Napi::Error::New(env,
                         state_ == State::closed ? "the engine is closed" : "the engine has not been loaded");
}

Napi::Value EngineObject::load(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (state_ != State::empty) throw Napi::Error::New(env, "an engine is loaded once");
  auto model = std::make_shared<ModelDescription>(model_description(Field(info[0], "manifest")));
  const EngineOptions options = engine_options(Field(info[1], "options"));
  std::shared_ptr<Napi::FunctionReference> progress;
  if (info[2].IsFunction()) {
    progress = std::make_shared<Napi::FunctionReference>(Napi::Persistent(info[2].As<Napi::Function>()));
    // Reset below, on the JS thread; if the environment goes away first, it takes the reference with it.
    progress->SuppressDestruct();
  }

  state_ = State::loading;
  settlement_->begin(env);
  Ref();  // the object outlives what it started
  auto deferred = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env));
  thread_->post([this, model, options, progress, deferred, settlement = settlement_, host = host_] {
    std::exception_ptr failure;
    try {
      uint64_t shown = ~uint64_t{0};
      const LoadProgress on_progress = [&](uint64_t done, uint64_t total) {
        const uint64_t percent = total == 0 ? 100 : done * 100 / total;
        if (!progress || percent == shown) return;
        shown = percent;
        settlement->deliver([progress, done, total](Napi::Env env) {
          Napi::HandleScope scope(env);
          progress->Call({Napi::Number::New(env, static_cast<double>(done)),
                          Napi::Number::New(env, static_cast<double>(total))});
        });
      };
      host->engine = Engine::load(*model, options, on_progress);
    } catch (...) {
      failure = std::current_exception();
    }
    const EngineInfo loaded = failure ? EngineInfo{} : host->engine->info();
    settlement->deliver([this, failure, loaded, deferred, progress, settlement](Napi::Env env) {
      Napi::HandleScope scope(env);
      settlement->end(env);
      if (failure) {
        state_ = State::closed;
        deferred->Reject(to_js_error(env, failure).Value());
      } else {
        state_ = State::ready;
        limits_ = loaded.limits;
        deferred->Resolve(to_js(env, loaded));
      }
      if (progress) progress->Reset();
      Unref();
    });
  });
  return deferred->Promise();
}

void EngineObject::open_slot(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  require_ready(env);
  const auto index = static_cast<int32_t>(Field(info[0], "slot").integer(0, int64_t{limits_.slots} - 1));
  SamplingParams params = sampling_params(Field(info[1], "params"), limits_.vocabulary);
  const std::span<const int32_t> prompt = Field(info[2], "prompt").int32_array(),
                                 output = Field(info[3], "output").int32_array();
  const auto adapter = static_cast<int32_t>(Field(info[4], "adapter").integer_or(-1, -1, INT32_MAX));
  std::shared_ptr<grammar::Grammar> constraint;
  const Field constraint_field = Field(info[1], "params")["constraint"];
  if (!constraint_field.absent()) constraint = grammar_of(constraint_field["grammar"]);
  std::unique_ptr<Slot> slot;
  try {
    std::unique_ptr<grammar::Matcher> matcher;
    if (constraint) {
      matcher = std::make_unique<grammar::Matcher>(std::move(constraint),
                                                   constraint_field["continuation"].boolean_or(false));
    }
    // Reads nothing of the engine that a step changes.
    slot = host_->engine->make_slot(std::move(params), prompt, output, std::move(matcher), adapter);
  } catch (const std::exception&) {
    throw to_js_error(env, std::current_exception());
  }
  // std::function wants a copyable task.
  thread_->post([host = host_, index, carried = std::make_shared<std::unique_ptr<Slot>>(std::move(slot))] {
    host->engine->open_slot(index, std::move(*carried));
  });
}

void EngineObject::close_slot(const Napi::CallbackInfo& info) {
  require_ready(info.Env());
  const auto slot = static_cast<int32_t>(Field(info[0], "slot").integer(0, int64_t{limits_.slots} - 1));
  thread_->post([host = host_, slot] { host->engine->close_slot(slot); });
}

// Loaded and not closed, so that the engine is there; a flag of its own is all that is touched.
void EngineObject::hold(const Napi::CallbackInfo&) {
  if (state_ == State::ready) host_->engine->hold(true);
}

Napi::Value EngineObject::step(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  require_ready(env);
  std::shared_ptr<StepTask> task = step_task(info);
  host_->engine->hold(false);
  settlement_->begin(env);
  Ref();
  auto deferred = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env));
  thread_->post([this, task, deferred, settlement = settlement_, host = host_] {
    std::exception_ptr failure;
    auto result = std::make_shared<StepResult>();
    const auto started = std::chrono::steady_clock::now();
    try {
      if (!host->engine) throw Error(ErrorCode::invalid_argument, "the engine is closed");
      host->engine->step(task->record, *result);
    } catch (...) {
      failure = std::current_exception();
    }
    const std::chrono::duration<double, std::milli> computed = std::chrono::steady_clock::now() - started;
    settlement->deliver([this, result, failure, computed, deferred, settlement](Napi::Env env) {
      Napi::HandleScope scope(env);
      settlement->end(env);
      if (failure) {
        deferred->Reject(to_js_error(env, failure).Value());
      } else {
        auto answer = to_js(env, *result);
        answer.Set("computeMs", Napi::Number::New(env, computed.count()));
        deferred->Resolve(answer);
      }
      Unref();
    });
  });
  return deferred->Promise();
}

Napi::Value EngineObject::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  state_ = State::closed;
  settlement_->begin(env);
  Ref();
  auto deferred = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(env));
  thread_->post([this, deferred, settlement = settlement_, host = host_] {
    host->engine.reset();
    settlement->deliver([this, deferred, settlement](Napi::Env env) {
      Napi::HandleScope scope(env);
      settlement->end(env);
      deferred->Resolve(env.Undefined());
      Unref();
    });
  });
  return deferred->Promise();
}

}  // namespace filigree::js
