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

// Runs of 1 ms on a machine where the threads that are not last work for `share` of the time, until `end`; the threads of the last one.
int runs_until(ThreadCount& count, int64_t& now, int64_t end, double share, int64_t* fewer) {
  int threads = 0;
  while (now < end) {
    threads = count.at(now);
    now += 1'000'000;
    count.ran(threads, 1'000'000, static_cast<int64_t>(1e6 * share), now);
    if (fewer != nullptr && threads < 2) *fewer += 1'000'000;
  }
  return threads;
}

FILIGREE_TEST(thread_count_yields_to_others_and_returns) {
  ThreadCount count(2);
  int64_t now = 0, fewer = 0;
  check_equal(runs_until(count, now, 1'000'000'000, 0.9, &fewer), 2);
  check_equal(fewer, int64_t{0});
  runs_until(count, now, now + 10'000'000'000, 0.3, &fewer);
  check(fewer > 9'000'000'000, "one thread most of the time");
  // Alone again: at the latest after the longest while.
  check_equal(
      runs_until(count, now, now + ThreadCount::kLongestWhile + 2 * ThreadCount::kWindow, 0.9, nullptr), 2);
  // A share of the time that two threads make the most of is no reason to have one.
  fewer = 0;
  runs_until(count, now, now + 1'000'000'000, 0.6, &fewer);
  check_equal(fewer, int64_t{0});
  // Of eight threads one is left out, not more.
  ThreadCount many(8);
  for (int i = 0; i < 1000; ++i) {
    const int threads = many.at(now);
    check(threads >= 7, "one fewer");
    now += 1'000'000;
    many.ran(threads, 1'000'000, threads == 8 ? 400'000 : 950'000, now);
  }
  // Nor where shares are of unequal size for good.
  ThreadCount uneven(32);
  for (int i = 0; i < 1000; ++i) {
    const int threads = uneven.at(now);
    check(threads >= 31, "one fewer of many");
    now += 1'000'000;
    uneven.ran(threads, 1'000'000, 700'000, now);
  }
  // Runs of fewer threads tell nothing.
  ThreadCount small(4);
  for (int i = 0; i < 1000; ++i) small.ran(2, 1'000'000, 0, now += 1'000'000);
  check_equal(small.at(now), 4);
}

FILIGREE_TEST(thread_pool_short_runs_use_every_thread_at_most_once) {
  ThreadPool pool(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<int> calls(3, 0);
    int of = 0;
    pool.run_short(3, [&](int thread, int threads) {
      ++calls[static_cast<size_t>(thread)];
      if (thread == 0) of = threads;
      if (thread == 1) std::this_thread::sleep_for(std::chrono::microseconds(300));
    });
    check(of >= 1 && of <= 3, "threads");
    for (int i = 0; i < 3; ++i) check_equal(calls[static_cast<size_t>(i)], i < of ? 1 : 0);
  }
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
