#pragma once

#include <cstdint>

#include "base/thread_pool.h"

namespace filigree {

// work(first, end) over contiguous shares of [0, n), one for each thread.
template <class Work>
void share_rows(ThreadPool& pool, uint32_t n, Work work) {
  pool.run([&](int thread, int threads) {
    const auto at = [&](int t) {
      return static_cast<uint32_t>(uint64_t{n} * static_cast<uint32_t>(t) / static_cast<uint32_t>(threads));
    };
    if (at(thread) < at(thread + 1)) work(at(thread), at(thread + 1));
  });
}

}  // namespace filigree
