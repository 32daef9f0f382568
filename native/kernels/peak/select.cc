#include <algorithm>
#include <chrono>
#include <vector>

#include "base/cpu_features.h"
#include "base/thread_pool.h"
#include "kernels/peak/chains.h"
#include "kernels/peak/peak.h"

namespace filigree {

using linear::InputKind;

#define FILIGREE_PEAK(function, isa, kind, instruction, macs) int64_t function(uint64_t);
#include "kernels/peak/variants.inc"
#undef FILIGREE_PEAK

std::span<const PeakVariant> peak_variants() {
#define FILIGREE_PEAK(function, isa, kind, instruction, macs)                 \
  PeakVariant{#isa,                                                           \
              InputKind::kind,                                                \
              instruction,                                                    \
              uint64_t{macs} * kPeakChains,                                   \
              [](const CpuFeatures& cpu) { return supports_isa(cpu, #isa); }, \
              function},
  static const std::vector<PeakVariant> all = {
#include "kernels/peak/variants.inc"
  };
#undef FILIGREE_PEAK
  return all;
}

const PeakVariant* select_peak(InputKind kind, const CpuFeatures& cpu) {
  for (const PeakVariant& v : peak_variants()) {
    if (v.kind == kind && v.supported(cpu)) return &v;
  }
  return nullptr;
}

double measure_peak(const PeakVariant& variant, ThreadPool& threads, int passes) {
  using clock = std::chrono::steady_clock;
  const auto seconds_of = [&](uint64_t rounds) {
    const auto start = clock::now();
    std::vector<int64_t> sinks(static_cast<size_t>(threads.size()) * 8);
    threads.run([&](int thread, int) { sinks[static_cast<size_t>(thread) * 8] = variant.run(rounds); });
    volatile int64_t sink = sinks[0];
    (void)sink;
    return std::chrono::duration<double>(clock::now() - start).count();
  };
  uint64_t rounds = 1 << 14;
  while (seconds_of(rounds) < 0.01 && rounds < uint64_t{1} << 40) rounds *= 2;
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    best = std::max(
        best, static_cast<double>(rounds * variant.macs_per_round) * threads.size() / seconds_of(rounds));
  }
  return best;
}

}  // namespace filigree
