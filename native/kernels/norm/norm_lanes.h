#pragma once

#include "kernels/norm/norm.h"

namespace filigree {
namespace {

template <class V>
void rms_norm(const float* x, const float* weight, float eps, size_t n, float* out) {
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
  for (; i + 16 <= n; i += 16) {
    const auto v = V::load(x + i);
    a0 = V::fma(v, v, a0);
  }
  if (i < n) {
    const auto v = V::load_n(x + i, n - i);
    a1 = V::fma(v, v, a1);
  }
  const float sum = V::reduce_add(V::add(V::add(a0, a1), V::add(a2, a3)));
  const auto scale = V::set(1.0f / __builtin_sqrtf(sum / static_cast<float>(n) + eps));
  for (i = 0; i + 16 <= n; i += 16) {
    V::store(out + i, V::mul(V::mul(V::load(x + i), scale), V::load(weight + i)));
  }
  if (i < n) {
    V::store_n(out + i, V::mul(V::mul(V::load_n(x + i, n - i), scale), V::load_n(weight + i, n - i)), n - i);
  }
}

template <class V>
void add(float* x, const float* y, size_t n) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) V::store(x + i, V::add(V::load(x + i), V::load(y + i)));
  if (i < n) V::store_n(x + i, V::add(V::load_n(x + i, n - i), V::load_n(y + i, n - i)), n - i);
}

template <class V>
NormOps norm_ops() {
  return {V::name, rms_norm<V>, add<V>};
}

}  // namespace
}  // namespace filigree
