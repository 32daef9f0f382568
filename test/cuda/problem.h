#pragma once

// Random matrices of codes and what a product with them must give, in double; the main of the test programs.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <vector>

#include "cuda/codes.h"

namespace filigree::cuda::test {

struct Random {
  uint64_t state;
  uint32_t next() {
    uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 16);
  }
  float uniform() { return static_cast<float>(next() >> 8) * 0x1p-24f; }
  float normal() { return (uniform() + uniform() + uniform() + uniform() - 2.0f) * 1.7320508f; }
};

inline uint16_t to_bf16(float f) {
  uint32_t u;
  static_assert(sizeof u == sizeof f);
  __builtin_memcpy(&u, &f, sizeof u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
inline float from_bf16(uint16_t h) {
  const uint32_t u = uint32_t{h} << 16;
  float f;
  __builtin_memcpy(&f, &u, sizeof f);
  return f;
}

enum class Zeros { random, rows, two_four };  // rows: some rows empty, some full, the rest random

struct Problem {
  Values kind;
  uint32_t rows, cols, group;
  std::vector<uint16_t> bf16;
  std::vector<int8_t> codes;
  std::vector<float> row_scales;    // i8
  std::vector<float> group_scales;  // i4 [rows][groups], exactly representable in f16
  std::vector<uint16_t> x;          // bf16 [tokens][cols]
  std::vector<int8_t> x8;           // [tokens][cols]
  std::vector<float> x_scales;      // [tokens]
  uint32_t tokens;

  uint32_t groups() const { return (cols + group - 1) / group; }
  RowCodes source() const {
    return {kind, rows, cols, kind == Values::bf16 ? static_cast<const void*>(bf16.data()) : codes.data()};
  }
  double weight(uint32_t r, uint32_t c) const {
    const size_t at = size_t{r} * cols + c;
    if (kind == Values::bf16) return from_bf16(bf16[at]);
    const double scale = kind == Values::i8 ? row_scales[r] : group_scales[size_t{r} * groups() + c / group];
    return scale * codes[at];
  }
  // [tokens][rows]
  std::vector<double> product(bool i8_input) const {
    std::vector<double> out(size_t{tokens} * rows), w(cols);
    for (uint32_t r = 0; r < rows; ++r) {
      for (uint32_t c = 0; c < cols; ++c) w[c] = weight(r, c);
      for (uint32_t t = 0; t < tokens; ++t) {
        double s = 0;
        for (uint32_t c = 0; c < cols; ++c)
          s += w[c] * (i8_input ? double{x_scales[t]} * x8[size_t{t} * cols + c]
                                : from_bf16(x[size_t{t} * cols + c]));
        out[size_t{t} * rows + r] = s;
      }
    }
    return out;
  }
};

inline Problem make_problem(Values kind, uint32_t rows, uint32_t cols, uint32_t group, double zeros,
                            Zeros shape, uint32_t tokens, uint64_t seed) {
  Problem p;
  p.kind = kind, p.rows = rows, p.cols = cols, p.group = group, p.tokens = tokens;
  Random random{seed};
  const size_t n = size_t{rows} * cols;
  (kind == Values::bf16) ? p.bf16.resize(n) : p.codes.resize(n);
  for (uint32_t r = 0; r < rows; ++r) {
    const double mine = shape != Zeros::rows ? zeros : r % 5 == 0 ? 1.0 : r % 5 == 1 ? 0.0 : zeros;
    for (uint32_t c = 0; c < cols; ++c) {
      bool stored = random.uniform() >= mine;
      if (shape == Zeros::two_four) {
        // Which two of four: a hash of the place.
        const uint32_t skip = (r * 7 + c / 4 * 13) % 6;
        static const uint8_t kPairs[6] = {3, 5, 9, 6, 10, 12};
        stored = stored && (kPairs[skip] >> (c % 4) & 1);
      }
      const float v = random.normal();
      if (kind == Values::bf16) {
        p.bf16[size_t{r} * cols + c] = stored ? to_bf16(v * 0.02f + (v >= 0 ? 1e-4f : -1e-4f)) : 0;
      } else {
        const int most = kind == Values::i8 ? 127 : 7;
        int code = static_cast<int>(v * most / 3);
        code = code > most ? most : code < -most ? -most : code == 0 ? 1 : code;
        if (kind == Values::i4 && random.next() % 32 == 0) code = -8;
        p.codes[size_t{r} * cols + c] = static_cast<int8_t>(stored ? code : 0);
      }
    }
    p.row_scales.push_back(0.001f + 0.001f * random.uniform());
    for (uint32_t g = 0; g < p.groups(); ++g)
      p.group_scales.push_back(static_cast<float>(1 + random.next() % 1000) * 0x1p-16f);
  }
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t c = 0; c < cols; ++c) {
      p.x.push_back(to_bf16(random.normal()));
      p.x8.push_back(static_cast<int8_t>(static_cast<int>(random.next() % 255) - 127));
    }
    p.x_scales.push_back(0.01f + 0.01f * random.uniform());
  }
  return p;
}

// The main of a test program: run(whether the first argument is --quick) gives its exit status.
inline int run_tests(int argc, char** argv, int (*run)(bool quick)) {
  try {
    return run(argc > 1 && std::strcmp(argv[1], "--quick") == 0);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace filigree::cuda::test
