#pragma once

#include "cuda/layers.h"
#include "cuda/ptx.cuh"

// How kernels find and fill rows of the paged cache, and turn queries and keys.

namespace filigree::cuda {

FILIGREE_DEVICE void put(__half* to, float v) { *to = __float2half(v); }
FILIGREE_DEVICE void put(__nv_bfloat16* to, float v) { *to = __float2bfloat16(v); }
FILIGREE_DEVICE float2 widen(uint32_t bits, const __half*) {
  return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}
FILIGREE_DEVICE float2 widen(uint32_t bits, const __nv_bfloat16*) {
  return make_float2(low_bf16(bits), high_bf16(bits));
}

// Place of a position's row of one head in the cache, in elements.
FILIGREE_DEVICE size_t page_row(const KvPages& kv, const StepRows& rows, uint32_t table, uint32_t position,
                                uint32_t head) {
  const int32_t block =
      rows.block_tables[static_cast<size_t>(table) * rows.table_stride + position / kBlockTokens];
  return ((static_cast<size_t>(block) * kv.kv_heads + head) * kBlockTokens + position % kBlockTokens) *
         kv.head_dim;
}

// A pair of a head's columns turned by its angle. Spelled out, so that every kernel rounds alike.
FILIGREE_DEVICE float2 rotated(float a, float b, float cosine, float sine) {
  return make_float2(__fmaf_rn(a, cosine, -__fmul_rn(b, sine)), __fmaf_rn(b, cosine, __fmul_rn(a, sine)));
}

}  // namespace filigree::cuda
