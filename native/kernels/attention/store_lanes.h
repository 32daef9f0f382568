#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention/kv_layout.h"
#include "kernels/simd/row_scale.h"

// Writes a position's key (a column of its block) and value (a row).

namespace filigree {
namespace {

template <class V>
struct StoreF32 {
  using T = float;
  static void at(T* p, typename V::F x) { V::store(p, x); }
};
template <class V>
struct StoreF16 {
  using T = uint16_t;
  static void at(T* p, typename V::F x) { V::store_f16(p, x); }
};
template <class V>
struct StoreBf16 {
  using T = uint16_t;
  static void at(T* p, typename V::F x) { V::store_bf16(p, x); }
};
template <class V>
struct StoreI8 {
  using T = int8_t;
  static void at(T* p, typename V::F x) { V::store_i8(p, x); }
};

// x * inverse in the stored type, 16 at a time, to a column (stride 16) or a row of a block.
template <class V, class S>
void store_head(const float* x, size_t head_dim, float inverse, typename S::T* column, typename S::T* row) {
  const auto factor = V::set(inverse);
  typename S::T converted[16];
  for (size_t d = 0; d < head_dim; d += 16) {
    // Inverse 0: codes 0, also for a row that is not finite (its scale is NaN then).
    S::at(converted, inverse == 0.0f ? V::zero() : V::mul(V::load_n(x + d, head_dim - d), factor));
    if (row) {
      for (size_t i = 0; i < 16; ++i) row[d + i] = converted[i];
    } else {
      const size_t n = head_dim - d < 16 ? head_dim - d : 16;
      for (size_t i = 0; i < n; ++i) column[(d + i) * KvLayout::block_tokens] = converted[i];
    }
  }
}

template <class V, class S>
void store_kv_typed(const KvLayout& layout, std::byte* block, size_t slot, const float* k, const float* v) {
  const size_t head_dim = static_cast<size_t>(layout.head_dim), padded = layout.padded_dim();
  for (size_t head = 0; head < static_cast<size_t>(layout.kv_heads); ++head) {
    std::byte* at = block + head * layout.head_bytes();
    auto* keys = reinterpret_cast<typename S::T*>(at) + slot;
    auto* values = reinterpret_cast<typename S::T*>(at + layout.values_offset()) + slot * padded;
    float key_inverse = 1.0f, value_inverse = 1.0f;
    if constexpr (sizeof(typename S::T) == 1) {
      const RowScale ks = row_scale<V>(k + head * head_dim, head_dim),
                     vs = row_scale<V>(v + head * head_dim, head_dim);
      reinterpret_cast<float*>(at + layout.key_scales_offset())[slot] = ks.scale;
      reinterpret_cast<float*>(at + layout.value_scales_offset())[slot] = vs.scale;
      key_inverse = ks.inverse;
      value_inverse = vs.inverse;
    }
    store_head<V, S>(k + head * head_dim, head_dim, key_inverse, keys, nullptr);
    store_head<V, S>(v + head * head_dim, head_dim, value_inverse, nullptr, values);
  }
}

template <class V>
void store_kv(const KvLayout& layout, std::byte* block, int slot, const float* k, const float* v) {
  const size_t s = static_cast<size_t>(slot);
  switch (layout.type) {
    case KvType::f32:
      return store_kv_typed<V, StoreF32<V>>(layout, block, s, k, v);
    case KvType::f16:
      return store_kv_typed<V, StoreF16<V>>(layout, block, s, k, v);
    case KvType::bf16:
      return store_kv_typed<V, StoreBf16<V>>(layout, block, s, k, v);
    case KvType::i8:
      return store_kv_typed<V, StoreI8<V>>(layout, block, s, k, v);
    case KvType::fp8:  // refused before
      return;
  }
}

}  // namespace
}  // namespace filigree
