#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

// Floating-point numbers of few bits, IEEE's encoding without its infinities: f16 and e4m3.

namespace emulated {

template <int Mantissa, int LowestExponent, uint32_t Sign>
struct SmallFloat {
  // To the nearest, ties to even. Of f16, 2^16 stands for all that is larger.
  static uint32_t code(float v) {
    const float size = std::fmin(std::fabs(v), 65536.0f);
    int exponent = LowestExponent;
    if (size > 0) exponent = std::max(exponent, std::ilogb(size));
    const uint32_t steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, Mantissa - exponent)));
    const uint32_t code = (static_cast<uint32_t>(exponent - LowestExponent) << Mantissa) + steps;
    return std::signbit(v) ? code | Sign : code;
  }
  static float value(uint32_t code) {
    const uint32_t size = code & (Sign - 1), exponent = size >> Mantissa,
                   fraction = size & ((1u << Mantissa) - 1);
    const float v = exponent == 0 ? std::ldexp(static_cast<float>(fraction), LowestExponent - Mantissa)
                                  : std::ldexp(static_cast<float>(fraction + (1u << Mantissa)),
                                               LowestExponent - Mantissa + static_cast<int>(exponent) - 1);
    return code & Sign ? -v : v;
  }
};
using F16 = SmallFloat<10, -14, 0x8000>;
using E4m3 = SmallFloat<3, -6, 0x80>;

}  // namespace emulated
