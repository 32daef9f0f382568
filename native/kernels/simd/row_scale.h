#pragma once

#include <cstddef>
#include <cstdint>

namespace filigree {
namespace {

// Scale of a row quantized to [-127, 127], and what to multiply its values by; inverse 0 = all codes are zero.
struct RowScale {
  float scale, inverse;
};

// Magnitudes are compared as integers: there NaN is above infinity and both above every number, so neither can get lost.
template <class V>
RowScale row_scale(const float* x, size_t n) {
  auto largest = V::zero_i();
  size_t i = 0;
  for (; i + 16 <= n; i += 16) largest = V::max_magnitude(largest, V::load(x + i));
  if (i < n) largest = V::max_magnitude(largest, V::load_n(x + i, n - i));
  const uint32_t bits = V::reduce_max_i(largest);
  if (bits >= 0x7f800000u) return {__builtin_bit_cast(float, 0x7fc00000u), 0.0f};
  const float absmax = __builtin_bit_cast(float, bits);
  if (absmax < 0x1p-100f) return {0.0f, 0.0f};
  return {absmax / 127.0f, 127.0f / absmax};
}

}  // namespace
}  // namespace filigree
