#pragma once

#include "kernels/quantize/quantize.h"
#include "kernels/simd/row_scale.h"

namespace filigree {
namespace {

template <class V>
void quantize_row_i8(const float* x, size_t n, int8_t* q, float* scale) {
  const RowScale row = row_scale<V>(x, n);
  *scale = row.scale;
  const auto inverse = V::set(row.inverse);
  size_t i = 0;
  if (row.inverse == 0.0f) {
    for (; i < n; ++i) q[i] = 0;
    return;
  }
  for (; i + 16 <= n; i += 16) V::store_i8(q + i, V::mul(V::load(x + i), inverse));
  if (i < n) {
    int8_t tail[16];
    V::store_i8(tail, V::mul(V::load_n(x + i, n - i), inverse));
    for (size_t j = 0; i + j < n; ++j) q[i + j] = tail[j];
  }
}

template <class V>
void group_sums(const int8_t* q, size_t n, size_t group, int32_t* sums) {
  for (size_t begin = 0, g = 0; begin < n; begin += group, ++g) {
    sums[g] = V::sum_i8(q + begin, n - begin < group ? n - begin : group);
  }
}

template <class V>
void to_bf16(const float* x, size_t n, uint16_t* out) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) V::store_bf16(out + i, V::load(x + i));
  if (i < n) {
    uint16_t tail[16];
    V::store_bf16(tail, V::load_n(x + i, n - i));
    for (size_t j = 0; i + j < n; ++j) out[i + j] = tail[j];
  }
}

template <class V>
QuantizeOps quantize_ops() {
  return {V::name, quantize_row_i8<V>, group_sums<V>, to_bf16<V>};
}

}  // namespace
}  // namespace filigree
