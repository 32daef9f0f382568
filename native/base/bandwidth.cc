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
constexpr size_t kAhead = 4096;

// XOR of everything: one dependent chain per 8 bytes of a line, so loads are what limits.
uint64_t read_all(const std::byte* data, size_t bytes) {
  uint64_t sums[8] = {};
  for (size_t at = 0; at + kLine <= bytes; at += kLine) {
    __builtin_prefetch(data + at + kAhead, 0, 3);
    uint64_t line[8];
    std::memcpy(line, data + at, kLine);
    for (int i = 0; i < 8; ++i) sums[i] ^= line[i];
  }
  uint64_t all = 0;
  for (const uint64_t sum : sums) all ^= sum;
  return all;
}

}  // namespace

double measure_read_bandwidth(int threads, size_t bytes_per_thread, int passes) {
  if (threads < 1 || passes < 1 || bytes_per_thread < (1u << 20)) {
    throw Error(ErrorCode::invalid_argument,
                "bandwidth is measured with at least one thread, one pass and 1 MiB a thread");
  }
  ThreadPool pool(threads);
  // The slack keeps prefetches past the end inside the buffer.
  AlignedBuffer memory(static_cast<size_t>(threads) * bytes_per_thread + kAhead + kLine);
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  const auto slice = [&](int thread) {
    return memory.data() + static_cast<size_t>(thread) * bytes_per_thread;
  };
  pool.run([&](int thread, int) { std::memset(slice(thread), thread + 1, bytes_per_thread); });
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](int thread, int) {
      sums[static_cast<size_t>(thread) * 8] ^= read_all(slice(thread), bytes_per_thread);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(bytes_per_thread) * threads / seconds.count());
  }
  // Keeps the sums, and with them the reads, alive.
  volatile uint64_t sink = 0;
  for (const uint64_t sum : sums) sink = sink ^ sum;
  return best;
}

}  // namespace filigree
