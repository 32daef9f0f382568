#pragma once

#include <cuda_fp8.h>

#include <type_traits>

#include "cuda/layers.h"
#include "cuda/ptx.cuh"

// How kernels find, read and fill rows of the paged cache, and turn queries and keys.

namespace filigree::cuda {

// Elements are read in pieces of eight.
inline constexpr uint32_t kPiece = 8;

template <class T>
struct KvTraits {  // f16 and bf16
  static constexpr bool scaled = false;
  using Piece = uint4;
};
template <>
struct KvTraits<int8_t> {
  static constexpr bool scaled = true;
  static constexpr float most = 127;
  using Piece = uint2;
};
template <>
struct KvTraits<__nv_fp8_e4m3> {
  static constexpr bool scaled = true;
  static constexpr float most = 448;
  using Piece = uint2;
};

FILIGREE_DEVICE void put(float* to, float v) { *to = v; }
FILIGREE_DEVICE void put(__half* to, float v) { *to = __float2half(v); }
FILIGREE_DEVICE void put(__nv_bfloat16* to, float v) { *to = __float2bfloat16(v); }
FILIGREE_DEVICE void put(int8_t* to, float v) { *to = static_cast<int8_t>(__float2int_rn(v)); }
FILIGREE_DEVICE void put(__nv_fp8_e4m3* to, float v) { *to = __nv_fp8_e4m3(v); }

// Elements 2 i and 2 i + 1 of a piece, without their scale.
FILIGREE_DEVICE uint32_t word_of(const uint4& p, uint32_t i) {
  return i == 0 ? p.x : i == 1 ? p.y : i == 2 ? p.z : p.w;
}
FILIGREE_DEVICE float2 widen(const uint4& piece, uint32_t i, const __half*) {
  const uint32_t bits = word_of(piece, i);
  return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}
FILIGREE_DEVICE float2 widen(const uint4& piece, uint32_t i, const __nv_bfloat16*) {
  const uint32_t bits = word_of(piece, i);
  return make_float2(low_bf16(bits), high_bf16(bits));
}
FILIGREE_DEVICE float2 widen(const uint2& piece, uint32_t i, const int8_t*) {
  // A code + 128 as the low byte of 2^23 is a float that many above it.
  constexpr float kAbove = 8388608.0f + 128.0f;
  const uint32_t codes = (i < 2 ? piece.x : piece.y) ^ 0x80808080u, first = 0x7540u + i % 2 * 2;
  return make_float2(__uint_as_float(prmt(codes, 0x4b000000u, first)) - kAbove,
                     __uint_as_float(prmt(codes, 0x4b000000u, first + 1)) - kAbove);
}
FILIGREE_DEVICE float2 widen(const uint2& piece, uint32_t i, const __nv_fp8_e4m3*) {
  const uint32_t codes = (i < 2 ? piece.x : piece.y) >> i % 2 * 16;
  return __half22float2(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes), __NV_E4M3));
}

// Bytes of one head of a block.
template <class T>
FILIGREE_DEVICE uint32_t head_bytes(uint32_t head_dim) {
  return kBlockTokens * (head_dim * static_cast<uint32_t>(sizeof(T)) + (KvTraits<T>::scaled ? 4 : 0));
}

// One position of one head: its elements, and its scale where there is one.
template <class T>
struct KvRow {
  T* elements;
  float* scale;
};
template <class T>
FILIGREE_DEVICE KvRow<T> row_of(void* pages, const KvPages& kv, uint32_t block, uint32_t head,
                                uint32_t position) {
  uint8_t* const of_head = static_cast<uint8_t*>(pages) +
                           (static_cast<size_t>(block) * kv.kv_heads + head) * head_bytes<T>(kv.head_dim);
  T* const elements = reinterpret_cast<T*>(of_head);
  const uint32_t at = position % kBlockTokens;
  return {elements + at * kv.head_dim, reinterpret_cast<float*>(elements + kBlockTokens * kv.head_dim) + at};
}
FILIGREE_DEVICE uint32_t block_of(const StepRows& rows, uint32_t table, uint32_t position) {
  return static_cast<uint32_t>(
      rows.block_tables[static_cast<size_t>(table) * rows.table_stride + position / kBlockTokens]);
}

// A head's columns d and half + d, d = lane, lane + 32, ..., as a warp holds them.
inline constexpr uint32_t kMostPairs = 4;  // of a lane: head dimensions up to 256
struct HeadPairs {
  float2 pair[kMostPairs];

  template <class Value>  // value(d) -> the pair
  FILIGREE_DEVICE HeadPairs(uint32_t lane, uint32_t half, const Value& value) {
#pragma unroll
    for (uint32_t i = 0; i < kMostPairs; ++i)
      pair[i] = lane + 32 * i < half ? value(lane + 32 * i) : make_float2(0, 0);
  }

  // By what the elements of a row are divided before they are rounded; the same on every lane.
  template <class T>
  FILIGREE_DEVICE float scale() const {
    if constexpr (!KvTraits<T>::scaled) return 1;
    float most = 0;
#pragma unroll
    for (uint32_t i = 0; i < kMostPairs; ++i) most = fmaxf(most, fmaxf(fabsf(pair[i].x), fabsf(pair[i].y)));
#pragma unroll
    for (int o = 16; o; o >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
    if constexpr (KvTraits<T>::scaled) most = __fdiv_rn(most, KvTraits<T>::most);
    return most;
  }

  template <class T>
  FILIGREE_DEVICE void store(const KvRow<T>& to, float scale, uint32_t lane, uint32_t half) const {
    const float inverse = !KvTraits<T>::scaled ? 1.0f : scale > 0 ? __frcp_rn(scale) : 0.0f;
    if (KvTraits<T>::scaled && lane == 0) *to.scale = scale;
#pragma unroll
    for (uint32_t i = 0; i < kMostPairs; ++i) {
      const uint32_t d = lane + 32 * i;
      if (d < half)
        put(to.elements + d, pair[i].x * inverse), put(to.elements + half + d, pair[i].y * inverse);
    }
  }
};

// A pair of a head's columns turned by its angle. Spelled out, so that every kernel rounds alike.
FILIGREE_DEVICE float2 rotated(float a, float b, float cosine, float sine) {
  return make_float2(__fmaf_rn(a, cosine, -__fmul_rn(b, sine)), __fmaf_rn(b, cosine, __fmul_rn(a, sine)));
}

template <class Pointer>
using Pointee = std::remove_const_t<std::remove_pointer_t<Pointer>>;

// call(type) with the element's type, as a null pointer to it.
template <class Call>
cudaError_t with_element(KvElement element, const Call& call) {
  switch (element) {
    case KvElement::f16:
      return call(static_cast<const __half*>(nullptr));
    case KvElement::bf16:
      return call(static_cast<const __nv_bfloat16*>(nullptr));
    case KvElement::i8:
      return call(static_cast<const int8_t*>(nullptr));
    case KvElement::e4m3:
      return call(static_cast<const __nv_fp8_e4m3*>(nullptr));
  }
  return cudaErrorInvalidValue;
}

}  // namespace filigree::cuda
