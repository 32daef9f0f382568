#pragma once

#include <napi.h>

#include <memory>

#include "binding/engine_thread.h"
#include "binding/settlement.h"
#include "engine/engine.h"

namespace filigree::js {

// class Engine of the addon (src/native/addon-types.ts): a model, loaded once, stepped one record at a time.
//   load(manifest, options, onProgress?) -> Promise<info>
//   openSlot(slot, params, prompt, output, adapter?), closeSlot(slot)   take effect before the next step
//   step(entries, tokens, blocks, copies, keepLogits) -> Promise<result>
//   hold()                                                    of the step in flight: begin none after it
//   close() -> Promise<void>                                  frees the model after the step in flight
class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static void define(Napi::Env env, Napi::Object exports);
  explicit EngineObject(const Napi::CallbackInfo& info);
  ~EngineObject() override;

 private:
  Napi::Value load(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
  void open_slot(const Napi::CallbackInfo& info);
  void close_slot(const Napi::CallbackInfo& info);
  void hold(const Napi::CallbackInfo& info);

  // What lives on the engine's thread.
  struct Host {
    std::unique_ptr<Engine> engine;
  };

  enum class State { empty, loading, ready, closed };
  void require_ready(Napi::Env env) const;
  // Ends the thread after the task it is at. Runs before Node takes the way back to JS away: a cleanup hook, registered after the
  // settlement's own and so called before it.
  void shut_down();
  static void on_env_cleanup(void* self);

  State state_ = State::empty;  // of the JS thread
  napi_env env_;
  StepLimits limits_;  // a copy for the JS thread, set when loading has ended
  std::shared_ptr<Settlement> settlement_;
  std::shared_ptr<Host> host_;
  std::unique_ptr<EngineThread> thread_;
};

}  // namespace filigree::js
