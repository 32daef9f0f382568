#pragma once

#include <napi.h>

#include <memory>

#include "binding/engine_thread.h"
#include "binding/settlement.h"
#include "compress/session.h"

namespace filigree::js {

// compress::Session behind promises: every call is a task of one native thread, in order, and rejects with what the task threw.
//   open(manifest, options)                       -> { layerBytes, spilled }
//   vocabulary(name, options)                     -> tensors
//   layer(options, onProgress?)                   -> { reports, tensors }
//   restore(tensors, files)                       -> undefined
//   probe(options)                                -> { error, outliers }
//   finalNorm()                                   -> tensors
//   perplexity()                                  -> { before, after, tokens }
//   close()
class SessionObject : public Napi::ObjectWrap<SessionObject> {
 public:
  static void define(Napi::Env env, Napi::Object exports);
  explicit SessionObject(const Napi::CallbackInfo& info);
  ~SessionObject() override;

 private:
  // What the native thread owns; outlives the object while a task runs.
  struct Host {
    std::unique_ptr<Session> session;
    std::atomic<bool> cancelled{false};
  };

  Napi::Value open(const Napi::CallbackInfo& info);
  Napi::Value vocabulary(const Napi::CallbackInfo& info);
  Napi::Value layer(const Napi::CallbackInfo& info);
  Napi::Value restore(const Napi::CallbackInfo& info);
  Napi::Value probe(const Napi::CallbackInfo& info);
  Napi::Value final_norm(const Napi::CallbackInfo& info);
  Napi::Value perplexity(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  template <class Result>
  Napi::Value run(Napi::Env env, std::function<Result(Host&)> work,
                  std::function<Napi::Value(Napi::Env, Result&)> to_js,
                  std::shared_ptr<Napi::FunctionReference> progress = nullptr);
  void shut_down();
  static void on_env_cleanup(void* self);

  Napi::Env env_;
  std::shared_ptr<Settlement> settlement_;
  std::shared_ptr<Host> host_;
  std::unique_ptr<EngineThread> thread_;
};

}  // namespace filigree::js
