#pragma once

#include <cstddef>
#include <cstdint>

#include "base/half.h"

// 16 lanes in plain C++: the reference, and what runs where no instruction set of ours is found. See README.md.

namespace filigree {
namespace {

struct Scalar {
  struct F {
    float v[16];
  };
  struct I {
    uint32_t v[16];
  };
  static constexpr const char* name = "scalar";
  static constexpr int accumulators = 4;  // of 16 lanes, in a register tile
  static constexpr int rows = 4;          // query rows of an attention tile

  template <class Op>
  static F map(Op op) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = op(i);
    return r;
  }

  static F load(const float* p) {
    return map([&](int i) { return p[i]; });
  }
  static F load_n(const float* p, size_t n) {
    return map([&](int i) { return static_cast<size_t>(i) < n ? p[i] : 0.0f; });
  }
  static void store(float* p, const F& a) {
    for (int i = 0; i < 16; ++i) p[i] = a.v[i];
  }
  static void store_n(float* p, const F& a, size_t n) {
    for (size_t i = 0; i < n && i < 16; ++i) p[i] = a.v[i];
  }
  static F set(float x) {
    return map([&](int) { return x; });
  }
  static F zero() { return set(0.0f); }

  static F add(const F& a, const F& b) {
    return map([&](int i) { return a.v[i] + b.v[i]; });
  }
  static F sub(const F& a, const F& b) {
    return map([&](int i) { return a.v[i] - b.v[i]; });
  }
  static F mul(const F& a, const F& b) {
    return map([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F div(const F& a, const F& b) {
    return map([&](int i) { return a.v[i] / b.v[i]; });
  }
  static F fma(const F& a, const F& b, const F& c) {
    return map([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
  }
  static F fnma(const F& a, const F& b, const F& c) {
    return map([&](int i) { return __builtin_fmaf(-a.v[i], b.v[i], c.v[i]); });
  }
  static F max(const F& a, const F& b) {
    return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F min(const F& a, const F& b) {
    return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F round(const F& a) {
    return map([&](int i) { return __builtin_rintf(a.v[i]); });
  }
  static F scalb(const F& a, const F& n) {
    return map([&](int i) {
      const int e = n.v[i] == n.v[i] ? static_cast<int>(n.v[i]) : 0;
      const int half = e >> 1;
      return a.v[i] * __builtin_bit_cast(float, static_cast<uint32_t>(half + 127) << 23) *
             __builtin_bit_cast(float, static_cast<uint32_t>(e - half + 127) << 23);
    });
  }
  static F keep(const F& a, int begin, int end, float other) {
    return map([&](int i) { return i >= begin && i < end ? a.v[i] : other; });
  }
  static uint32_t mask_ge(const F& a, const F& b) {
    uint32_t m = 0;
    for (int i = 0; i < 16; ++i) m |= static_cast<uint32_t>(a.v[i] >= b.v[i]) << i;
    return m;
  }

  static float reduce_add(const F& a) {
    F r = a;
    for (int step = 8; step >= 1; step /= 2) {
      for (int i = 0; i < step; ++i) r.v[i] += r.v[i + step];
    }
    return r.v[0];
  }
  static float reduce_max(const F& a) {
    F r = a;
    for (int step = 8; step >= 1; step /= 2) {
      for (int i = 0; i < step; ++i) r.v[i] = r.v[i] > r.v[i + step] ? r.v[i] : r.v[i + step];
    }
    return r.v[0];
  }

  static I zero_i() { return I{}; }
  static I max_magnitude(const I& m, const F& a) {
    I r;
    for (int i = 0; i < 16; ++i) {
      const uint32_t bits = __builtin_bit_cast(uint32_t, a.v[i]) & 0x7fffffffu;
      r.v[i] = bits > m.v[i] ? bits : m.v[i];
    }
    return r;
  }
  static uint32_t reduce_max_i(const I& m) {
    uint32_t r = 0;
    for (int i = 0; i < 16; ++i) r = m.v[i] > r ? m.v[i] : r;
    return r;
  }

  static F load_f16(const uint16_t* p) {
    return map([&](int i) { return f16_to_f32(p[i]); });
  }
  static F load_bf16(const uint16_t* p) {
    return map([&](int i) { return bf16_to_f32(p[i]); });
  }
  static F load_i8(const int8_t* p) {
    return map([&](int i) { return static_cast<float>(p[i]); });
  }
  static void store_f16(uint16_t* p, const F& a) {
    for (int i = 0; i < 16; ++i) p[i] = f32_to_f16(a.v[i]);
  }
  static void store_bf16(uint16_t* p, const F& a) {
    for (int i = 0; i < 16; ++i) p[i] = f32_to_bf16(a.v[i]);
  }
  // |a| <= 127; rounds to nearest even.
  static void store_i8(int8_t* p, const F& a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(__builtin_rintf(a.v[i]));
  }
  static int32_t sum_i8(const int8_t* p, size_t n) {
    int32_t sum = 0;
    for (size_t i = 0; i < n; ++i) sum += p[i];
    return sum;
  }
};

}  // namespace
}  // namespace filigree
