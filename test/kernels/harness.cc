#include "harness.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <sstream>
#include <vector>

namespace filigree::test {
namespace {

struct Case {
  std::string name, isa;
  std::function<void()> body;
};

struct State {
  std::vector<Case> cases;
  CpuFeatures cpu = detect_cpu();
  long checks = 0;
  long failures = 0;  // of the running test
};

State& state() {
  static State s;
  return s;
}

struct Skipped {
  std::string reason;
};

bool of_this_family(std::string_view isa) {
  if (isa == "scalar") return true;
  const bool arm = isa.substr(0, 4) == "neon";
#if defined(__aarch64__)
  return arm;
#else
  return !arm;
#endif
}

}  // namespace

void check(bool ok, std::string_view what, std::source_location where) {
  State& s = state();
  ++s.checks;
  if (ok) return;
  if (++s.failures <= 20) {
    std::printf("    %s:%u: check failed%s%.*s\n", where.file_name(), where.line(), what.empty() ? "" : ": ",
                static_cast<int>(what.size()), what.data());
  }
}

void check_near(double actual, double expected, double tolerance, std::string_view what,
                std::source_location where) {
  if (actual == expected || (std::isnan(actual) && std::isnan(expected))) return check(true, what, where);
  const double difference = std::abs(actual - expected);
  if (difference <= tolerance) return check(true, what, where);
  char text[160];
  std::snprintf(text, sizeof text, ": %.9g instead of %.9g, differs by %.3g, allowed %.3g", actual, expected,
                difference, tolerance);
  check(false, std::string(what) + text, where);
}

void skip(const std::string& reason) { throw Skipped{reason}; }

uint64_t Random::bits() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

float Random::uniform() { return static_cast<float>(bits() >> 40) * 0x1p-24f; }

float Random::normal() {
  const double u = (static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53,
               v = static_cast<double>(bits() >> 11) * 0x1p-53;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v));
}

Registration::Registration(const char* name, void (*body)()) { state().cases.push_back({name, "", body}); }

Registration::Registration(const char* name, const char* isas,
                           void (*body)(const CpuFeatures&, std::string_view)) {
  std::istringstream list(isas);
  for (std::string isa; list >> isa;) {
    if (!of_this_family(isa)) continue;
    state().cases.push_back({std::string(name) + "[" + isa + "]", isa, [isa, body] {
                               if (!supports_isa(state().cpu, isa)) skip("this processor has no " + isa);
                               body(restrict_to(state().cpu, isa), isa);
                             }});
  }
}

static int run_all(int argc, char** argv) {
  std::string filter, only;
  bool list = false;
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--filter") && i + 1 < argc) {
      filter = argv[++i];
    } else if (!std::strcmp(argv[i], "--isa") && i + 1 < argc) {
      only = argv[++i];
    } else if (!std::strcmp(argv[i], "--list")) {
      list = true;
    } else {
      std::fprintf(stderr, "usage: %s [--filter TEXT] [--isa NAME] [--list]\n", argv[0]);
      return 2;
    }
  }
  State& s = state();
  if (!only.empty()) restrict_to(s.cpu, only);
  std::printf("%s, best instruction set %s\n", s.cpu.cpu_name.c_str(), std::string(best_isa(s.cpu)).c_str());
  int passed = 0, failed = 0, skipped = 0;
  for (const Case& c : s.cases) {
    if (c.name.find(filter) == std::string::npos || (!only.empty() && c.isa != only)) continue;
    if (list) {
      std::printf("%s\n", c.name.c_str());
      continue;
    }
    s.failures = 0;
    const auto start = std::chrono::steady_clock::now();
    std::string skip_reason;
    try {
      c.body();
    } catch (const Skipped& skipped_test) {
      skip_reason = skipped_test.reason;
    } catch (const std::exception& error) {
      ++s.failures;
      std::printf("    exception: %s\n", error.what());
    }
    const double ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    if (s.failures) {
      ++failed;
      std::printf("FAIL %s (%ld failed checks)\n", c.name.c_str(), s.failures);
    } else if (!skip_reason.empty()) {
      ++skipped;
      std::printf("SKIP %s: %s\n", c.name.c_str(), skip_reason.c_str());
    } else {
      ++passed;
      std::printf("ok   %s (%.0f ms)\n", c.name.c_str(), ms);
    }
    std::fflush(stdout);
  }
  if (list) return 0;
  std::printf("%d passed, %d failed, %d skipped (%ld checks)\n", passed, failed, skipped, s.checks);
  return failed || passed + skipped == 0 ? 1 : 0;
}

}  // namespace filigree::test

int main(int argc, char** argv) {
  try {
    return filigree::test::run_all(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
