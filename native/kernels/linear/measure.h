#pragma once

#include "kernels/linear/linear.h"

namespace filigree {
class ThreadPool;
}

namespace filigree::linear {

struct Timing {
  double median, best;  // seconds
};

// Time of one product of `tokens` tokens (random activations) with the whole matrix by one kernel, each thread on its share of
// the panels, over `rounds` rounds after one to warm up. A matrix larger than the last-level cache measures decode as it is in
// a model. The kernel must be supported by this processor.
Timing measure(const Matrix& matrix, const Variant& variant, uint32_t tokens, ThreadPool& threads,
               int rounds);

}  // namespace filigree::linear
