#pragma once

#include <napi.h>

#include <functional>
#include <memory>

namespace filigree::js {

// The way back to the JS thread. One per object; it keeps the event loop alive only while something is under way.
class Settlement {
 public:
  explicit Settlement(Napi::Env env);
  ~Settlement();

  // On the JS thread, around an operation.
  void begin(Napi::Env env);
  void end(Napi::Env env);

  // From any thread: runs `deliver` on the JS thread, or drops it if the environment is going away.
  void deliver(std::function<void(Napi::Env)> deliver);

 private:
  Napi::ThreadSafeFunction door_;
  int under_way_ = 0;
};

}  // namespace filigree::js
