#pragma once

#include <cstddef>
#include <cstdint>

namespace filigree {

struct CpuFeatures;

// Dynamic symmetric quantization of one row of activations to [-127, 127]:
//   scale = absmax / 127,  q[i] = nearest_even(x[i] * (127 / absmax)).
// A row whose absmax is below 2^-100 counts as zero: scale 0, codes 0. A row that holds a NaN or an infinity gets scale NaN
// and codes 0, so that what is computed from it is NaN and the failure reaches the logits instead of vanishing in a clamp.
using QuantizeRowI8Fn = void (*)(const float* x, size_t n, int8_t* q, float* scale);

// sums[g] = sum of q[g*group .. min(n, (g+1)*group)), for ceil(n / group) groups. group >= 1.
using GroupSumsFn = void (*)(const int8_t* q, size_t n, size_t group, int32_t* sums);

// f32 to bf16, nearest even; NaN stays NaN, subnormals are kept.
using ToBf16Fn = void (*)(const float* x, size_t n, uint16_t* out);

// sum of x[i]^2.
using SumSquaresFn = float (*)(const float* x, size_t n);

// rest[i] = x[i] - scale * q[i], one fused multiply-add: what quantize_row_i8 left over. rest may be x.
using ResidualFn = void (*)(const float* x, size_t n, const int8_t* q, float scale, float* rest);

struct QuantizeOps {
  const char* variant;
  QuantizeRowI8Fn quantize_row_i8;
  SumSquaresFn sum_squares;
  ResidualFn residual;
  GroupSumsFn group_sums;
  ToBf16Fn to_bf16;
};

// All variants agree bit for bit.
QuantizeOps select_quantize(const CpuFeatures& cpu);

}  // namespace filigree
