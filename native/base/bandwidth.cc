#include "base/bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/status.h"
#include "base/thread_pool.h"

namespace filigree {
namespace {

constexpr size_t kLine = 64;

// One load a cache line brings it in whole, so that nothing but memory limits; the lines of `streams` runs are taken in turn, each
// prefetched `ahead` bytes before it is read.
uint64_t read_all(const std::byte* data, size_t bytes, int streams, size_t ahead) {
  const size_t run = bytes / static_cast<size_t>(streams) / kLine * kLine;
  uint64_t sum = 0;
  for (size_t at = 0; at + kLine <= run; at += kLine) {
    for (int s = 0; s < streams; ++s) {
      const std::byte* line = data + static_cast<size_t>(s) * run + at;
      __builtin_prefetch(line + ahead, 0, 3);
      uint64_t word;
      std::memcpy(&word, line, sizeof(word));
      sum ^= word;
    }
  }
  return sum;
}

// Ways to walk memory; which is fastest differs between processors and their prefetchers, the bound is the best of them.
struct Walk {
  int streams;
  size_t ahead;
};
constexpr Walk kWalks[] = {{1, 4096}, {1, 8192}, {4, 2048}, {4, 4096}};
constexpr size_t kMostAhead = 8192;

}  // namespace

double measure_read_bandwidth(int threads, size_t bytes_per_thread, int passes) {
  if (threads < 1 || passes < 1 || bytes_per_thread < (1u << 20)) {
    throw Error(ErrorCode::invalid_argument,
                "bandwidth is measured with at least one thread, one pass and 1 MiB a thread");
  }
  ThreadPool pool(threads);
  // The slack keeps prefetches past the end inside the buffer.
  AlignedBuffer memory(static_cast<size_t>(threads) * bytes_per_thread + kMostAhead + kLine);
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  const auto slice = [&](int thread) {
    return memory.data() + static_cast<size_t>(thread) * bytes_per_thread;
  };
  pool.run([&](int thread, int) { std::memset(slice(thread), thread + 1, bytes_per_thread); });
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    for (const Walk& walk : kWalks) {
      const auto start = std::chrono::steady_clock::now();
      pool.run([&](int thread, int) {
        sums[static_cast<size_t>(thread) * 8] ^=
            read_all(slice(thread), bytes_per_thread, walk.streams, walk.ahead);
      });
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      best = std::max(best, static_cast<double>(bytes_per_thread) * threads / seconds.count());
    }
  }
  // Keeps the sums, and with them the reads, alive.
  volatile uint64_t sink = 0;
  for (const uint64_t sum : sums) sink = sink ^ sum;
  return best;
}

}  // namespace filigree
