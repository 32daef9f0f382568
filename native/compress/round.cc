#include "compress/round.h"

#include <algorithm>
#include <cmath>

#include "base/half.h"
#include "base/status.h"
#include "compress/rows.h"
#include "formats/quantize_rows.h"

namespace filigree {
namespace {

float largest_magnitude(const float* x, uint32_t n) {
  float most = 0.0f;
  for (uint32_t i = 0; i < n; ++i) most = std::max(most, std::fabs(x[i]));
  return most;
}

void round_to(const float* x, uint32_t n, float scale, float low, float high, int8_t* codes) {
  for (uint32_t i = 0; i < n; ++i) {
    codes[i] = static_cast<int8_t>(std::clamp(std::nearbyint(x[i] / scale), low, high));
  }
}

}  // namespace

Codes round_nearest(const DenseMatrix& weight, int bits, uint32_t group, ScaleRule rule, ThreadPool& pool) {
  if (bits != 8 && bits != 4) throw Error(ErrorCode::invalid_argument, "weights are rounded to 8 or 4 bits");
  Codes out;
  out.bits = bits;
  out.group = bits == 8 ? 0 : group;
  const uint32_t groups = group_count(weight.cols, out.group);
  const uint32_t width = out.group == 0 ? weight.cols : out.group;
  out.values.resize(weight.size());
  out.scales.resize(size_t{weight.rows} * groups);
  share_rows(pool, weight.rows, [&](uint32_t begin, uint32_t end) {
    for (uint32_t r = begin; r < end; ++r) {
      for (uint32_t g = 0; g < groups; ++g) {
        const uint32_t first = g * width, n = std::min(width, weight.cols - first);
        const float* x = weight.row(r) + first;
        int8_t* codes = out.values.data() + size_t{r} * weight.cols + first;
        float& scale = out.scales[size_t{r} * groups + g];
        if (rule == ScaleRule::search && bits == 8) {
          quantize_row_i8(x, n, codes, &scale);
        } else if (rule == ScaleRule::search) {
          const uint16_t half = search_i4_scale(x, n);
          scale = f16_to_f32(half);
          quantize_group_i4(x, n, half, codes);
        } else {
          // The smallest scales of the training rule: they keep a row of zeros from dividing by zero.
          const float most = largest_magnitude(x, n);
          scale = bits == 8 ? std::max(most, 1e-10f) / 127.0f
                            : std::max(f16_to_f32(f32_to_f16(most / 7.0f)), 0x1p-24f);
          round_to(x, n, scale, bits == 8 ? -127.0f : -8.0f, bits == 8 ? 127.0f : 7.0f, codes);
        }
      }
    }
  });
  return out;
}

void apply_codes(const Codes& codes, DenseMatrix& weight, ThreadPool& pool) {
  const uint32_t groups = group_count(weight.cols, codes.group);
  const uint32_t width = codes.group == 0 ? weight.cols : codes.group;
  share_rows(pool, weight.rows, [&](uint32_t begin, uint32_t end) {
    for (uint32_t r = begin; r < end; ++r) {
      float* out = weight.row(r);
      const int8_t* code = codes.values.data() + size_t{r} * weight.cols;
      for (uint32_t c = 0; c < weight.cols; ++c) {
        out[c] = codes.scales[size_t{r} * groups + c / width] * static_cast<float>(code[c]);
      }
    }
  });
}

}  // namespace filigree
