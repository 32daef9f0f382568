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
float sum_squares(const float* x, size_t n) {
  typename V::F a0 = V::zero(), a1 = V::zero(), a2 = V::zero(), a3 = V::zero();
  size_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const auto x0 = V::load(x + i), x1 = V::load(x + i + 16), x2 = V::load(x + i + 32),
               x3 = V::load(x + i + 48);
    a0 = V::fma(x0, x0, a0);
    a1 = V::fma(x1, x1, a1);
    a2 = V::fma(x2, x2, a2);
    a3 = V::fma(x3, x3, a3);
  }
  for (; i < n; i += 16) {
    const auto v = i + 16 <= n ? V::load(x + i) : V::load_n(x + i, n - i);
    a0 = V::fma(v, v, a0);
  }
  return V::reduce_add(V::add(V::add(a0, a1), V::add(a2, a3)));
}

template <class V>
void residual(const float* x, size_t n, const int8_t* q, float scale, float* rest) {
  const auto s = V::set(scale);
  size_t i = 0;
  for (; i + 16 <= n; i += 16) V::store(rest + i, V::fnma(s, V::load_i8(q + i), V::load(x + i)));
  if (i < n) {
    int8_t tail[16] = {};
    for (size_t j = 0; i + j < n; ++j) tail[j] = q[i + j];
    V::store_n(rest + i, V::fnma(s, V::load_i8(tail), V::load_n(x + i, n - i)), n - i);
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
  return {V::name, quantize_row_i8<V>, sum_squares<V>, residual<V>, group_sums<V>, to_bf16<V>};
}

}  // namespace
}  // namespace filigree
