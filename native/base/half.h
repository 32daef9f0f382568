#pragma once

#include <cstdint>

// Scalar conversions between f32 and the 16-bit formats, rounding to nearest even, in plain integer arithmetic so that they
// give the same bits as the hardware's instructions (F16C, AVX-512 BF16, NEON) for every input that is not a NaN.
// static: an ISA file that includes this keeps its own copy, compiled with its own flags.

namespace filigree {

[[maybe_unused]] static inline float bf16_to_f32(uint16_t h) {
  return __builtin_bit_cast(float, uint32_t{h} << 16);
}

[[maybe_unused]] static inline uint16_t f32_to_bf16(float f) {
  const uint32_t u = __builtin_bit_cast(uint32_t, f);
  if ((u & 0x7fffffffu) > 0x7f800000u)
    return static_cast<uint16_t>((u >> 16) | 0x40u);  // a quiet NaN stays one
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

[[maybe_unused]] static inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu, mantissa = h & 0x3ffu;
  if (exponent == 0x1f)
    return __builtin_bit_cast(float, sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0u));
  if (exponent != 0) return __builtin_bit_cast(float, sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // zero and subnormals, exact
  return __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, magnitude));
}

[[maybe_unused]] static inline uint16_t f32_to_f16(float f) {
  const uint32_t u = __builtin_bit_cast(uint32_t, f);
  const uint32_t sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
  if (a >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above round to infinity
  if (a >= 0x38800000u) {                                              // normal in f16
    const uint32_t r = a - 0x38000000u;
    return static_cast<uint16_t>(sign | ((r + 0xfffu + ((r >> 13) & 1u)) >> 13));
  }
  if (a <= 0x33000000u)
    return static_cast<uint16_t>(sign);  // up to half of the smallest subnormal: to zero (ties to even)
  const int shift = 126 - static_cast<int>(a >> 23);  // 14..24
  const uint32_t m = (a & 0x7fffffu) | 0x800000u;
  const uint32_t q = m >> shift, rest = m & ((1u << shift) - 1u), half = 1u << (shift - 1);
  return static_cast<uint16_t>(sign | (q + ((rest > half || (rest == half && (q & 1u))) ? 1u : 0u)));
}

}  // namespace filigree
