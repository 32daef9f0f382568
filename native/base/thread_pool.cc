#include "base/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

#include "base/cpu_limits.h"
#include "base/status.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace filigree {
namespace {

// Longer than the gaps within a step, much shorter than a scheduler's time slice.
constexpr auto kSpin = std::chrono::microseconds(40);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

#if defined(__linux__)
void sleep_while(std::atomic<uint32_t>& word, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
void wake_one(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}
#else
void sleep_while(std::atomic<uint32_t>& word, uint32_t value) { word.wait(value); }
void wake_one(std::atomic<uint32_t>& word) { word.notify_one(); }
#endif

int64_t nanoseconds() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// True once done() holds, false after kSpin. The clock is read every few pauses: it costs as much as one of them.
template <class Done>
bool spin_until(Done done) {
  if (done()) return true;
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      relax();
      if (done()) return true;
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

}  // namespace

struct alignas(64) ThreadPool::Mailbox {
  std::atomic<uint32_t> ticket{0};  // one more for each job posted; the worker's futex
  std::atomic<uint32_t> sleeps{0};
  int64_t ended = 0;  // when its thread had done the last job

  void post() {
    ticket.fetch_add(1, std::memory_order_seq_cst);
    // Either we see the worker asleep and wake it, or it sees the new ticket before it sleeps: both are sequentially
    // consistent stores followed by loads of the other's word.
    if (sleeps.load(std::memory_order_seq_cst)) wake_one(ticket);
  }

  void wait_past(uint32_t seen) {
    if (spin_until([&] { return ticket.load(std::memory_order_acquire) != seen; })) return;
    sleeps.store(1, std::memory_order_seq_cst);
    while (ticket.load(std::memory_order_seq_cst) == seen) sleep_while(ticket, seen);
    sleeps.store(0, std::memory_order_relaxed);
  }
};

ThreadPool::ThreadPool(int threads) : count_(threads) {
  if (threads < 1 || threads > 1024) {
    throw Error(ErrorCode::invalid_argument,
                "a thread count must be 1 to 1024, not " + std::to_string(threads));
  }
  mailboxes_ = std::make_unique<Mailbox[]>(static_cast<size_t>(threads));
  workers_.reserve(static_cast<size_t>(threads - 1));
  // Signals belong to the host program's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    for (int i = 1; i < threads; ++i) {
      workers_.emplace_back([this, i] { work(mailboxes_[static_cast<size_t>(i)], i); });
    }
  } catch (const std::system_error& error) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    stop_workers();
    throw Error(ErrorCode::out_of_memory, std::string("cannot start ") + std::to_string(threads) +
                                              " threads (" + error.what() +
                                              "); ask for fewer with --threads");
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

ThreadPool::~ThreadPool() { stop_workers(); }

void ThreadPool::stop_workers() {
  stopping_ = true;
  for (size_t i = 0; i < workers_.size(); ++i) mailboxes_[i + 1].post();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work(Mailbox& mailbox, int index) {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), ("filigree-" + std::to_string(index)).c_str());
#endif
  for (uint32_t seen = 0;; ++seen) {
    mailbox.wait_past(seen);
    if (stopping_) return;
    execute(index);
    mailbox.ended = nanoseconds();
    if (pending_.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
        caller_sleeps_.load(std::memory_order_seq_cst)) {
      wake_one(pending_);
    }
  }
}

void ThreadPool::execute(int index) {
  try {
    (*job_)(index, job_threads_);
  } catch (...) {
    if (failed_.exchange(1) == 0) failure_ = std::current_exception();
  }
}

void ThreadPool::run(int threads, Job job) {
  threads = std::clamp(threads, 1, size());
  if (threads == 1) {
    job(0, 1);
    return;
  }
  job_ = &job;
  job_threads_ = threads;
  pending_.store(static_cast<uint32_t>(threads - 1), std::memory_order_relaxed);
  for (int i = 1; i < threads; ++i) mailboxes_[static_cast<size_t>(i)].post();
  execute(0);
  mailboxes_[0].ended = nanoseconds();
  if (!spin_until([&] { return pending_.load(std::memory_order_acquire) == 0; })) {
    caller_sleeps_.store(1, std::memory_order_seq_cst);
    // Every worker that ends changes the word, only the last one wakes us.
    for (uint32_t left; (left = pending_.load(std::memory_order_seq_cst)) != 0;) sleep_while(pending_, left);
    caller_sleeps_.store(0, std::memory_order_relaxed);
  }
  if (failed_.load()) {
    failed_.store(0);
    std::exception_ptr failure;
    std::swap(failure, failure_);
    std::rethrow_exception(failure);
  }
}

void ThreadPool::run_short(int threads, Job job) {
  threads = std::clamp(threads, 1, size());
  if (threads == 1) {
    job(0, 1);
    return;
  }
  const int64_t begin = nanoseconds();
  threads = std::min(threads, count_.at(begin));
  run(threads, job);
  if (threads == 1) return;
  int64_t last = begin, sum = 0;
  for (int i = 0; i < threads; ++i) {
    const int64_t ended = mailboxes_[static_cast<size_t>(i)].ended;
    last = std::max(last, ended);
    sum += ended - begin;
  }
  count_.ran(threads, last - begin, (sum - (last - begin)) / (threads - 1), last);
}

int ThreadPool::default_threads() {
  int threads = affinity_cpus();
  std::ifstream in("/proc/self/cgroup");
  std::ostringstream text;
  text << in.rdbuf();
  const double quota = cgroup_cpus(text.str(), "/sys/fs/cgroup");
  if (quota > 0) threads = std::min(threads, static_cast<int>(std::floor(quota)));
  return std::clamp(threads, 1, 1024);
}

}  // namespace filigree
