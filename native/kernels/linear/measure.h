#pragma once

#include "kernels/linear/linear.h"

namespace filigree {
class ThreadPool;
}

namespace filigree::linear {

// Median seconds of one product of `tokens` tokens (random activations) with the whole matrix by one kernel, each thread on its
// share of the panels, over `rounds` rounds after one to warm up. A matrix larger than the last-level cache measures decode as
// it is in a model. The kernel must be supported by this processor.
double measure(const Matrix& matrix, const Variant& variant, uint32_t tokens, ThreadPool& threads, int rounds);

// Bytes per second at which these threads read memory, each its own contiguous part of `bytes`: the bound of decode. The best
// of a few prefetch distances, median of `rounds` rounds each.
double measure_read_bandwidth(ThreadPool& threads, size_t bytes, int rounds);

}  // namespace filigree::linear
