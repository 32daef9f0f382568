#pragma once

#include <napi.h>

#include <functional>
#include <memory>

namespace filigree::js {

// The way back to the JS thread. One per object; it keeps the event loop alive only while something is under way.
class Settlement {
 public:
  explicit Settlement(Napi::Env env);
  ~Settlement() { close(); }

  // On the JS thread, around an operation.
  void begin(Napi::Env env);
  void end(Napi::Env env);

  // Gives the way back up; on the JS thread, once nobody can deliver any more, and before Node's teardown takes it: a function that
  // is released after that no longer exists.
  void close();

  // From any thread: runs `deliver` on the JS thread, or drops it if the environment is going away.
  void deliver(std::function<void(Napi::Env)> deliver);

 private:
  Napi::ThreadSafeFunction door_;
  int under_way_ = 0;
  bool closed_ = false;
};

}  // namespace filigree::js
