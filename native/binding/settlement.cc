#include "binding/settlement.h"

#include <utility>

namespace filigree::js {

Settlement::Settlement(Napi::Env env)
    : door_(Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}),
                                          "filigree", 0, 1)) {
  door_.Unref(env);
}

void Settlement::close() {
  if (closed_) return;
  closed_ = true;
  door_.Release();
}

void Settlement::begin(Napi::Env env) {
  if (under_way_++ == 0) door_.Ref(env);
}

void Settlement::end(Napi::Env env) {
  if (--under_way_ == 0 && !closed_) door_.Unref(env);
}

void Settlement::deliver(std::function<void(Napi::Env)> deliver) {
  auto* carried = new std::function<void(Napi::Env)>(std::move(deliver));
  const napi_status status =
      door_.BlockingCall(carried, [](Napi::Env env, Napi::Function, std::function<void(Napi::Env)>* task) {
        const std::unique_ptr<std::function<void(Napi::Env)>> owner(task);
        // A null environment: it is being torn down, and nobody waits for the answer any more.
        if (static_cast<napi_env>(env) == nullptr) return;
        try {
          (*task)(env);
        } catch (const Napi::Error&) {
          // A terminating worker refuses every call; thrown on, its refusal would end the whole process.
        }
      });
  if (status != napi_ok) delete carried;
}

}  // namespace filigree::js
