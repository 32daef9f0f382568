#pragma once

#include <algorithm>

#include "cuda_fp16.h"

using __nv_fp8_storage_t = uint8_t;
using __nv_fp8x2_storage_t = uint16_t;
enum __nv_fp8_interpretation_t { __NV_E4M3 };
enum __nv_saturation_t { __NV_SATFINITE };

inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float v, __nv_saturation_t, __nv_fp8_interpretation_t) {
  return static_cast<__nv_fp8_storage_t>(emulated::E4m3::code(std::clamp(v, -448.0f, 448.0f)));
}
inline __half __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t code, __nv_fp8_interpretation_t) {
  return __float2half(emulated::E4m3::value(code));
}
inline __half2 __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t codes, __nv_fp8_interpretation_t) {
  return __floats2half2_rn(emulated::E4m3::value(codes & 255u), emulated::E4m3::value(codes >> 8 & 255u));
}
struct __nv_fp8_e4m3 {
  __nv_fp8_storage_t code;
  explicit __nv_fp8_e4m3(float v) : code(__nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3)) {}
};
