#pragma once

#include <cstddef>

namespace filigree {

// Read bandwidth of memory in bytes per second, `threads` threads each streaming its own `bytes_per_thread` (choose far more than
// the caches hold) with software prefetch: the best of `passes`. It is the bound that decoding is measured against.
// Throws invalid_argument, out_of_memory.
double measure_read_bandwidth(int threads, size_t bytes_per_thread, int passes);

}  // namespace filigree
