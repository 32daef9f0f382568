#pragma once

#include <cstdint>
#include <source_location>
#include <string>
#include <string_view>

#include "base/cpu_features.h"

// A test program without dependencies, small enough to run under an emulator.
//
//   FILIGREE_TEST(name) { check(1 + 1 == 2); }
//   FILIGREE_ISA_TEST(name, "scalar avx2 avx512 neon") { auto kernel = select(cpu).kernel; ... }
//
// The second form makes one test per listed instruction set of this processor family, called name[isa], with `cpu` (features
// cut down to that set) and `isa` in scope; where this machine cannot run it, it is skipped and says so.
// Arguments: --filter TEXT (substring of the name), --isa NAME (only the tests of that set), --list.

namespace filigree::test {

// A failed check is printed with its place and counted; the test goes on (the first 20 are printed).
void check(bool ok, std::string_view what = "", std::source_location where = std::source_location::current());
// Both are equal, or both NaN, or |a - b| <= tolerance.
void check_near(double actual, double expected, double tolerance, std::string_view what = "",
                std::source_location where = std::source_location::current());
// Ends the running test as skipped.
[[noreturn]] void skip(const std::string& reason);

template <class A, class B>
void check_equal(const A& actual, const B& expected, std::string_view what = "",
                 std::source_location where = std::source_location::current()) {
  if constexpr (requires {
                  std::to_string(actual);
                  std::to_string(expected);
                }) {
    if (actual == expected) return check(true, what, where);
    check(false,
          std::string(what) + ": " + std::to_string(actual) + " instead of " + std::to_string(expected),
          where);
  } else {
    check(actual == expected, what, where);
  }
}

// Runs `f` and checks that it throws an `E`.
template <class E, class F>
void check_throws(F&& f, std::string_view what = "",
                  std::source_location where = std::source_location::current()) {
  try {
    f();
  } catch (const E&) {
    return check(true, what, where);
  }
  check(false, std::string(what) + ": no exception", where);
}

// splitmix64: reproducible on every platform, unlike <random>'s distributions.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits();
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((bits() >> 32) * n >> 32); }
  float uniform();  // [0, 1)
  float uniform(float low, float high) { return low + (high - low) * uniform(); }
  float normal();

 private:
  uint64_t state_;
};

struct Registration {
  Registration(const char* name, void (*body)());
  Registration(const char* name, const char* isas, void (*body)(const CpuFeatures&, std::string_view));
};

}  // namespace filigree::test

#define FILIGREE_TEST(name)                                                                     \
  static void filigree_test_##name();                                                           \
  static const ::filigree::test::Registration filigree_reg_##name(#name, filigree_test_##name); \
  static void filigree_test_##name()

#define FILIGREE_ISA_TEST(name, isas)                                                                 \
  static void filigree_test_##name(const ::filigree::CpuFeatures& cpu, std::string_view isa);         \
  static const ::filigree::test::Registration filigree_reg_##name(#name, isas, filigree_test_##name); \
  static void filigree_test_##name([[maybe_unused]] const ::filigree::CpuFeatures& cpu,               \
                                   [[maybe_unused]] std::string_view isa)
