#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

// 16 lanes in four NEON registers (Armv8.2-A with fp16 conversion and dotprod). See README.md.

namespace filigree {
namespace {

struct Neon {
  struct F {
    float32x4_t v[4];
  };
  struct I {
    uint32x4_t v[4];
  };
  static constexpr const char* name = "neon";
  static constexpr int accumulators = 4;
  static constexpr int rows = 4;

  template <class Op>
  static F map(Op op) {
    return {{op(0), op(1), op(2), op(3)}};
  }

  static F load(const float* p) {
    return map([&](int i) { return vld1q_f32(p + 4 * i); });
  }
  static F load_n(const float* p, size_t n) {
    if (n >= 16) return load(p);
    float t[16] = {};
    for (size_t i = 0; i < n; ++i) t[i] = p[i];
    return load(t);
  }
  static void store(float* p, F a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
  }
  static void store_n(float* p, F a, size_t n) {
    if (n >= 16) return store(p, a);
    float t[16];
    store(t, a);
    for (size_t i = 0; i < n; ++i) p[i] = t[i];
  }
  static F set(float x) {
    return map([&](int) { return vdupq_n_f32(x); });
  }
  static F zero() { return set(0.0f); }

  static F add(F a, F b) {
    return map([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
  }
  static F sub(F a, F b) {
    return map([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
  }
  static F mul(F a, F b) {
    return map([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
  }
  static F div(F a, F b) {
    return map([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
  }
  static F fma(F a, F b, F c) {
    return map([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
  }
  static F fnma(F a, F b, F c) {
    return map([&](int i) { return vfmsq_f32(c.v[i], a.v[i], b.v[i]); });
  }
  // As on x86: the second operand where the two are unordered.
  static F max(F a, F b) {
    return map([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
  }
  static F min(F a, F b) {
    return map([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
  }
  static F round(F a) {
    return map([&](int i) { return vrndnq_f32(a.v[i]); });
  }
  static F scalb(F a, F n) {
    return map([&](int i) {
      const int32x4_t e = vcvtq_s32_f32(n.v[i]), half = vshrq_n_s32(e, 1), bias = vdupq_n_s32(127);
      const float32x4_t s1 = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
      const float32x4_t s2 = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(e, half), bias), 23));
      return vmulq_f32(vmulq_f32(a.v[i], s1), s2);
    });
  }
  static F keep(F a, int begin, int end, float other) {
    static const int32_t lanes[4] = {0, 1, 2, 3};
    return map([&](int i) {
      const int32x4_t lane = vaddq_s32(vld1q_s32(lanes), vdupq_n_s32(4 * i));
      const uint32x4_t in = vandq_u32(vcgeq_s32(lane, vdupq_n_s32(begin)), vcltq_s32(lane, vdupq_n_s32(end)));
      return vbslq_f32(in, a.v[i], vdupq_n_f32(other));
    });
  }
  static uint32_t mask_ge(F a, F b) {
    static const uint32_t bits[4] = {1, 2, 4, 8};
    uint32_t m = 0;
    for (int i = 0; i < 4; ++i)
      m |= vaddvq_u32(vandq_u32(vcgeq_f32(a.v[i], b.v[i]), vld1q_u32(bits))) << (4 * i);
    return m;
  }

  static float reduce_add(F a) {
    // Lane i with i + 8, then + 4, + 2, + 1: the tree of the other variants, not vaddvq's pairs.
    const float32x4_t q = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    const float32x2_t d = vadd_f32(vget_low_f32(q), vget_high_f32(q));
    return vget_lane_f32(d, 0) + vget_lane_f32(d, 1);
  }
  static float reduce_max(F a) {
    float t[16];
    store(t, a);
    for (int step = 8; step >= 1; step /= 2) {
      for (int i = 0; i < step; ++i) t[i] = t[i] > t[i + step] ? t[i] : t[i + step];
    }
    return t[0];
  }

  static I zero_i() { return {{vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)}}; }
  static I max_magnitude(I m, F a) {
    I r;
    for (int i = 0; i < 4; ++i) {
      r.v[i] = vmaxq_u32(m.v[i], vandq_u32(vreinterpretq_u32_f32(a.v[i]), vdupq_n_u32(0x7fffffffu)));
    }
    return r;
  }
  static uint32_t reduce_max_i(I m) {
    return vmaxvq_u32(vmaxq_u32(vmaxq_u32(m.v[0], m.v[1]), vmaxq_u32(m.v[2], m.v[3])));
  }

  static F load_f16(const uint16_t* p) {
    return map([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
  }
  static F load_bf16(const uint16_t* p) {
    return map([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
  }
  static F load_i8(const int8_t* p) {
    const int8x16_t b = vld1q_s8(p);
    const int16x8_t lo = vmovl_s8(vget_low_s8(b)), hi = vmovl_s8(vget_high_s8(b));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi)))}};
  }
  static void store_f16(uint16_t* p, F a) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
  }
  static void store_bf16(uint16_t* p, F a) {
    for (int i = 0; i < 4; ++i) {
      const uint32x4_t u = vreinterpretq_u32_f32(a.v[i]);
      const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
      const uint32x4_t r = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
      const uint32x4_t number = vceqq_f32(a.v[i], a.v[i]);
      vst1_u16(p + 4 * i, vshrn_n_u32(vbslq_u32(number, r, vorrq_u32(u, vdupq_n_u32(0x400000))), 16));
    }
  }
  static void store_i8(int8_t* p, F a) {
    const int16x8_t lo = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a.v[0])), vmovn_s32(vcvtnq_s32_f32(a.v[1])));
    const int16x8_t hi = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(a.v[2])), vmovn_s32(vcvtnq_s32_f32(a.v[3])));
    vst1q_s8(p, vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
  }
  static int32_t sum_i8(const int8_t* p, size_t n) {
    int32x4_t sum = vdupq_n_s32(0);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) sum = vdotq_s32(sum, vld1q_s8(p + i), vdupq_n_s8(1));
    int32_t total = vaddvq_s32(sum);
    for (; i < n; ++i) total += p[i];
    return total;
  }
};

}  // namespace
}  // namespace filigree
