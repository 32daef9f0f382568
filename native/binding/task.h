#pragma once

#include <napi.h>

#include <functional>
#include <utility>

#include "binding/js_values.h"

namespace filigree::js {

// Work off the JS thread whose result becomes a promise's value: the one worker class of the binding.
template <typename Result>
class Task final : public Napi::AsyncWorker {
 public:
  using Work = std::function<Result()>;
  using ToJs = std::function<Napi::Value(Napi::Env, const Result&)>;

  static Napi::Promise run(Napi::Env env, Work work, ToJs to_js) {
    auto* task = new Task(env, std::move(work), std::move(to_js));
    const Napi::Promise promise = task->deferred_.Promise();
    task->Queue();
    return promise;
  }

 private:
  Task(Napi::Env env, Work work, ToJs to_js)
      : Napi::AsyncWorker(env),
        work_(std::move(work)),
        to_js_(std::move(to_js)),
        deferred_(Napi::Promise::Deferred::New(env)) {}

  void Execute() override {
    try {
      result_ = work_();
    } catch (...) {
      failure_ = std::current_exception();
    }
  }
  void OnOK() override {
    Napi::HandleScope scope(Env());
    if (failure_) {
      deferred_.Reject(to_js_error(Env(), failure_).Value());
    } else {
      deferred_.Resolve(to_js_(Env(), result_));
    }
  }

  Work work_;
  ToJs to_js_;
  Napi::Promise::Deferred deferred_;
  Result result_{};
  std::exception_ptr failure_;
};

}  // namespace filigree::js
