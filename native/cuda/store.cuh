#pragma once

#include "cuda/launch.cuh"
#include "cuda/linear.h"
#include "cuda/ptx.cuh"

namespace filigree::cuda {

FILIGREE_DEVICE float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// One output of a row, its scales already applied.
FILIGREE_DEVICE void store_row(const Output& out, uint32_t row, uint32_t token, float value) {
  if (out.bias) value += out.bias[row];
  const size_t at = static_cast<size_t>(token) * out.stride + row;
  if (out.store == Store::bf16) {
    static_cast<__nv_bfloat16*>(out.data)[at] = __float2bfloat16(value);
  } else if (out.store == Store::f32) {
    static_cast<float*>(out.data)[at] = value;
  } else {
    static_cast<float*>(out.data)[at] += value;
  }
}

// A pair of rows of Store::swiglu: gate row 32 p + i and up row 32 p + 16 + i give column 16 p + i.
FILIGREE_DEVICE void store_swiglu(const Output& out, uint32_t gate_row, uint32_t token, float gate,
                                  float up) {
  if (out.bias) gate += out.bias[gate_row], up += out.bias[gate_row + 16];
  const uint32_t column = gate_row / 32 * 16 + gate_row % 16;
  static_cast<__nv_bfloat16*>(out.data)[static_cast<size_t>(token) * out.stride + column] =
      __float2bfloat16(silu(gate) * up);
}

FILIGREE_DEVICE float plus(float a, float b) { return a + b; }
FILIGREE_DEVICE float times(float a, float b) { return a * b; }
FILIGREE_DEVICE float4 plus(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
FILIGREE_DEVICE float4 times(const float4& a, const float4& b) {
  return make_float4(a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w);
}

FILIGREE_DEVICE uint2 as_bf16(const float4& v) {
  __nv_bfloat162 low = __floats2bfloat162_rn(v.x, v.y), high = __floats2bfloat162_rn(v.z, v.w);
  return make_uint2(*reinterpret_cast<uint32_t*>(&low), *reinterpret_cast<uint32_t*>(&high));
}

// Four outputs from row on, a multiple of four, of which those below `rows` exist.
FILIGREE_DEVICE void store_rows(const Output& out, uint32_t rows, uint32_t row, uint32_t token, float4 v) {
  const auto apart = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 != 0; };
  if (row + 4 > rows || out.stride % 4 || apart(out.data) || apart(out.bias)) {
    const float each[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      if (row + i < rows) store_row(out, row + i, token, each[i]);
    }
    return;
  }
  if (out.bias) v = plus(v, *reinterpret_cast<const float4*>(out.bias + row));
  const size_t at = static_cast<size_t>(token) * out.stride + row;
  if (out.store == Store::bf16) {
    *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(out.data) + at) = as_bf16(v);
  } else {
    float4* const to = reinterpret_cast<float4*>(static_cast<float*>(out.data) + at);
    *to = out.store == Store::f32 ? v : plus(*to, v);
  }
}

// Four columns of Store::swiglu, whose rows are in runs of 16 that all exist.
FILIGREE_DEVICE void store_swiglu_rows(const Output& out, uint32_t gate_row, uint32_t token, float4 gate,
                                       float4 up) {
  store_swiglu(out, gate_row, token, gate.x, up.x);
  store_swiglu(out, gate_row + 1, token, gate.y, up.y);
  store_swiglu(out, gate_row + 2, token, gate.z, up.z);
  store_swiglu(out, gate_row + 3, token, gate.w, up.w);
}

}  // namespace filigree::cuda
