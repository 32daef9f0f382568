#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace filigree {

// The thread that an engine lives on: tasks run one after the other, in the order they were posted. Not libuv's pool, which
// file and DNS work may fill, and which would give every step to another thread with cold caches.
class EngineThread {
 public:
  EngineThread();
  // Runs what was posted, then ends.
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  void post(std::function<void()> task);  // tasks must not throw

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable posted_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace filigree
