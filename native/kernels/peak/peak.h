#pragma once
// Arithmetic ceiling of a processor: multiply-accumulates a second of the instructions that the linear kernels use, on registers
// alone. Prefill and large batches are held against it, as decode is held against the read bandwidth (base/bandwidth.h).
#include <cstdint>
#include <span>

#include "kernels/linear/linear.h"

namespace filigree {
class ThreadPool;
struct CpuFeatures;

// One row of variants.inc: the multiply unit for one kind of input on one instruction set.
struct PeakVariant {
  const char* isa;
  linear::InputKind kind;
  const char* instruction;
  uint64_t macs_per_round;
  bool (*supported)(const CpuFeatures&);
  // Runs `rounds` rounds of independent multiply-accumulates; the result keeps them alive.
  int64_t (*run)(uint64_t rounds);
};

// Every variant of this build, best first.
std::span<const PeakVariant> peak_variants();

// The fastest instruction this processor has for `kind`, or null where only scalar code runs.
const PeakVariant* select_peak(linear::InputKind kind, const CpuFeatures& cpu);

// Multiply-accumulates a second of all threads together: the best of `passes` of about 10 ms.
double measure_peak(const PeakVariant& variant, ThreadPool& threads, int passes);

}  // namespace filigree
