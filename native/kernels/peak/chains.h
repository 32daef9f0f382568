#pragma once
// Included by the files of every instruction set: internal linkage only.
#include <cstdint>

namespace filigree {

// Independent accumulators of a round: more than latency times units of any processor here (4 cycles by 2), fewer than registers.
static constexpr int kPeakChains = 12;

// Hides a register's value from the compiler, which would otherwise fold the whole loop into one multiplication.
#if defined(__x86_64__) || defined(_M_X64)
#define FILIGREE_OPAQUE(value) asm volatile("" : "+v"(value))
#elif defined(__aarch64__)
#define FILIGREE_OPAQUE(value) asm volatile("" : "+w"(value))
#endif

// step(acc) advances one accumulator; sum(acc) reads it when all is done. Named variables, because an array that an asm statement
// touches stays on GCC's stack.
template <typename Register, typename Step, typename Sum>
static inline int64_t run_chains(uint64_t rounds, Register zero, Step step, Sum sum) {
#define FILIGREE_ALL_CHAINS(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define FILIGREE_DECLARE(i) Register acc##i = zero;
#define FILIGREE_STEP(i) \
  acc##i = step(acc##i); \
  FILIGREE_OPAQUE(acc##i);
#define FILIGREE_SUM(i) total += sum(acc##i);
  FILIGREE_ALL_CHAINS(FILIGREE_DECLARE)
  for (uint64_t round = 0; round < rounds; ++round) {
    FILIGREE_ALL_CHAINS(FILIGREE_STEP)
  }
  int64_t total = 0;
  FILIGREE_ALL_CHAINS(FILIGREE_SUM)
  return total;
#undef FILIGREE_ALL_CHAINS
#undef FILIGREE_DECLARE
#undef FILIGREE_STEP
#undef FILIGREE_SUM
}

}  // namespace filigree
