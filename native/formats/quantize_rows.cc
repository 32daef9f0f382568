#include "formats/quantize_rows.h"

#include <algorithm>
#include <cmath>

#include "base/half.h"

namespace filigree {
namespace {

// Adding and subtracting 1.5 * 2^23 rounds |x| < 2^22 to the nearest integer, ties to even, in two vectorizable additions.
float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

float largest_magnitude(const float* x, size_t n) {
  float most = 0.0f;
  for (size_t i = 0; i < n; ++i) most = std::max(most, std::fabs(x[i]));
  return most;
}

}  // namespace

bool all_finite(const float* x, size_t n) {
  // 0 * x is 0 for finite x and NaN otherwise; lanes, so that it vectorizes without reordering a single sum.
  float lane[8] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) lane[j] += 0.0f * x[i + j];
  }
  for (; i < n; ++i) lane[0] += 0.0f * x[i];
  for (float l : lane) {
    if (!(l == 0.0f)) return false;
  }
  return true;
}

void quantize_row_i8(const float* x, size_t n, int8_t* codes, float* scale) {
  const float most = largest_magnitude(x, n);
  if (!(most >= 0x1p-120f)) {
    std::fill_n(codes, n, int8_t{0});
    *scale = 0.0f;
    return;
  }
  const float inverse = 127.0f / most;
  for (size_t i = 0; i < n; ++i) {
    codes[i] =
        static_cast<int8_t>(static_cast<int32_t>(std::clamp(nearest(x[i] * inverse), -127.0f, 127.0f)));
  }
  *scale = most / 127.0f;
}

uint16_t search_i4_scale(const float* x, size_t n) {
  float extreme = 0.0f;
  for (size_t i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  if (!(std::fabs(extreme) >= 0x1p-120f)) return 0;
  // For codes c the least-squares scale is sum(x c) / sum(c c), and it takes sum(x c)^2 / sum(c c) off the squared error. The
  // extreme goes to the negative side, which has one more code.
  float best_gain = 0.0f, best_scale = 0.0f;
  for (int step = 0; step < 15; ++step) {
    const float inverse = -(6.4f + 0.2f * static_cast<float>(step)) / extreme;
    float xc[4] = {}, cc[4] = {};
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
      for (int j = 0; j < 4; ++j) {
        const float c = std::min(std::max(nearest(x[i + j] * inverse), -8.0f), 7.0f);
        xc[j] += x[i + j] * c;
        cc[j] += c * c;
      }
    }
    for (; i < n; ++i) {
      const float c = std::min(std::max(nearest(x[i] * inverse), -8.0f), 7.0f);
      xc[0] += x[i] * c;
      cc[0] += c * c;
    }
    const float sum_xc = (xc[0] + xc[1]) + (xc[2] + xc[3]), sum_cc = (cc[0] + cc[1]) + (cc[2] + cc[3]);
    const float scale = sum_xc / sum_cc, gain = sum_xc * scale;
    if (gain > best_gain) {
      best_gain = gain;
      best_scale = scale;
    }
  }
  return f32_to_f16(best_scale);
}

void quantize_group_i4(const float* x, size_t n, uint16_t scale_f16, int8_t* codes) {
  const float scale = f16_to_f32(scale_f16);
  if (scale == 0.0f) {
    std::fill_n(codes, n, int8_t{0});
    return;
  }
  const float inverse = 1.0f / scale;
  for (size_t i = 0; i < n; ++i) {
    codes[i] =
        static_cast<int8_t>(static_cast<int32_t>(std::min(std::max(nearest(x[i] * inverse), -8.0f), 7.0f)));
  }
}

}  // namespace filigree
