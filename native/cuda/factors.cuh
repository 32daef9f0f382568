#pragma once

#include <cuda_fp8.h>

#include <type_traits>

#include "cuda/ptx.cuh"

// What the tensor cores multiply in attention: queries, keys, values and weights as f16, with a bf16 cache as bf16; sums are f32.

namespace filigree::cuda {

FILIGREE_DEVICE uint32_t half_bits(const __half2& v) { return *reinterpret_cast<const uint32_t*>(&v); }
FILIGREE_DEVICE uint32_t round_pair(float a, float b, const __half*) {
  return half_bits(__floats2half2_rn(a, b));
}
FILIGREE_DEVICE uint32_t round_pair(float a, float b, const __nv_bfloat16*) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&v);
}
FILIGREE_DEVICE float2 widen_pair(uint32_t v, const __half*) {
  return __half22float2(*reinterpret_cast<const __half2*>(&v));
}
FILIGREE_DEVICE float2 widen_pair(uint32_t v, const __nv_bfloat16*) {
  return make_float2(low_bf16(v), high_bf16(v));
}

// What the tensor cores multiply.
template <class T>
using Factor = std::conditional_t<std::is_same_v<T, __nv_bfloat16>, __nv_bfloat16, __half>;

FILIGREE_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                              const __half*) {
  mma_f16(c, a, b0, b1);
}
FILIGREE_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                              const __nv_bfloat16*) {
  mma(c, a, b0, b1);
}

// Four codes as two pairs of f16, exactly.
FILIGREE_DEVICE uint2 widen_codes(uint32_t codes, const int8_t*) {
  // A code + 128 as the low byte of 2^10 is a half that many above it.
  const uint32_t above = 0x64646464u;
  codes ^= 0x80808080u;
  const uint32_t low = prmt(codes, above, 0x4140), high = prmt(codes, above, 0x4342);
  const __half2 base = __float2half2_rn(1024 + 128);
  return make_uint2(half_bits(__hsub2(*reinterpret_cast<const __half2*>(&low), base)),
                    half_bits(__hsub2(*reinterpret_cast<const __half2*>(&high), base)));
}
FILIGREE_DEVICE uint2 widen_codes(uint32_t codes, const __nv_fp8_e4m3*) {
  const auto pair = [](uint32_t two) {
    return half_bits(__half2(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two), __NV_E4M3)));
  };
  return make_uint2(pair(codes & 0xffff), pair(codes >> 16));
}

}  // namespace filigree::cuda
