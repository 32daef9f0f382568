#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "harness.h"

namespace filigree::test {

FILIGREE_TEST(thread_pool_runs_every_index_once) {
  for (int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    check_equal(pool.size(), threads);
    std::vector<int> calls(static_cast<size_t>(threads),
                           0);  // plain ints: the pool itself must order the accesses
    for (int round = 0; round < 500; ++round) {
      pool.run([&](int thread, int count) {
        if (count == threads) ++calls[static_cast<size_t>(thread)];
      });
    }
    for (int n : calls) check_equal(n, 500);
  }
}

FILIGREE_TEST(thread_pool_partial_runs_leave_the_rest_alone) {
  ThreadPool pool(4);
  Random random(1);
  std::vector<long> calls(4, 0), expected(4, 0);
  for (int round = 0; round < 3000; ++round) {
    const int want = static_cast<int>(random.below(7));  // 0 counts as 1, 5 and 6 as 4
    const int got = want < 1 ? 1 : want > 4 ? 4 : want;
    for (int i = 0; i < got; ++i) ++expected[static_cast<size_t>(i)];
    pool.run(want, [&](int thread, int threads) {
      if (threads == got) ++calls[static_cast<size_t>(thread)];
    });
    // Longer than the spin, so that sleeping and waking are exercised as well as spinning.
    if (round % 100 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
  }
  check(calls == expected);
}

FILIGREE_TEST(thread_pool_waits_for_slow_workers) {
  ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    std::vector<int> done(3, 0);
    pool.run([&](int thread, int) {
      if (thread != 0) std::this_thread::sleep_for(std::chrono::microseconds(400 * thread));
      done[static_cast<size_t>(thread)] = 1;
    });
    check_equal(std::accumulate(done.begin(), done.end(), 0), 3);
  }
}

FILIGREE_TEST(thread_pool_rethrows_and_goes_on) {
  ThreadPool pool(3);
  for (int thrower = 0; thrower < 3; ++thrower) {
    check_throws<std::out_of_range>([&] {
      pool.run([&](int thread, int) {
        if (thread == thrower) throw std::out_of_range("x");
      });
    });
    std::atomic<int> calls{0};
    pool.run([&](int, int) { ++calls; });
    check_equal(calls.load(), 3);
  }
}

FILIGREE_TEST(thread_pool_makes_progress_when_oversubscribed) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> foreign;
  for (int i = 0; i < 4; ++i) {
    foreign.emplace_back([&] {
      while (!stop.load(std::memory_order_relaxed)) {
      }
    });
  }
  ThreadPool pool(8);
  long total = 0;
  const auto start = std::chrono::steady_clock::now();
  int rounds = 0;
  for (; rounds < 200 && std::chrono::steady_clock::now() - start < std::chrono::seconds(20); ++rounds) {
    std::vector<long> parts(8, 0);
    pool.run([&](int thread, int) { parts[static_cast<size_t>(thread)] = 1; });
    total += std::accumulate(parts.begin(), parts.end(), 0L);
  }
  stop = true;
  for (std::thread& t : foreign) t.join();
  check_equal(total, 8L * rounds);
  check_equal(rounds, 200);
}

FILIGREE_TEST(thread_pool_starts_and_stops) {
  for (int i = 0; i < 200; ++i) {
    ThreadPool pool(1 + i % 5);
    if (i % 2) pool.run([](int, int) {});
  }
  check_throws<Error>([] { ThreadPool pool(0); });
  check_throws<Error>([] { ThreadPool pool(100000); });
  check(ThreadPool::default_threads() >= 1);
}

}  // namespace filigree::test
