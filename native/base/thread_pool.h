#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "base/function_ref.h"
#include "base/thread_count.h"

namespace filigree {

// Persistent threads for one job at a time; the caller is thread 0 and works too.
//
// A step runs a few hundred jobs of 10 to 1000 microseconds with gaps of a few microseconds between them, so a worker that
// has finished spins for that long before it sleeps on its futex. It never spins longer: when another process, or the event
// loop, needs the core, a spinning thread would take it from the very thread it waits for (barriers that spin without end
// lose 20 to 50 times their speed with one runnable thread too many; this pool loses its share).
// Each worker has its own mailbox, so a job that wants two threads of sixteen wakes one worker and no more.
// Nothing is pinned and run() allocates nothing.
class ThreadPool {
 public:
  using Job = FunctionRef<void(int thread, int threads)>;

  // Starts threads - 1 workers. Throws invalid_argument unless threads is 1..1024, out_of_memory if they cannot be started.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls job(i, threads) for every i < threads, i = 0 on the calling thread, and returns when all are done. Everything the
  // jobs wrote is visible to the caller. If a job throws, the first exception is rethrown here after all have ended.
  // Not reentrant: one run at a time, not from inside a job.
  void run(Job job) { run(size(), job); }
  // The same on the first min(threads, size()) threads; the others are not woken. threads < 1 counts as 1.
  void run(int threads, Job job);
  // The same on fewer threads while others keep some of the processors busy (thread_count.h). For many short runs.
  void run_short(int threads, Job job);

  // min(affinity, floor of the control group's quota), at least 1.
  static int default_threads();

 private:
  struct Mailbox;

  void work(Mailbox& mailbox, int index);
  void execute(int index);
  void stop_workers();

  ThreadCount count_;  // of short runs

  // What the workers of the current run read; written by run() before it posts to their mailboxes.
  const Job* job_ = nullptr;
  int job_threads_ = 0;
  bool stopping_ = false;

  alignas(64) std::atomic<uint32_t> pending_{0};  // workers still at it; the caller's futex
  std::atomic<uint32_t> caller_sleeps_{0};
  std::atomic<uint32_t> failed_{0};
  std::exception_ptr failure_;

  std::unique_ptr<Mailbox[]> mailboxes_;
  std::vector<std::thread> workers_;
};

}  // namespace filigree
