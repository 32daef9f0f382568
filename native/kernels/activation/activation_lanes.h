#pragma once

#include "kernels/activation/activation.h"
#include "kernels/simd/math.h"

namespace filigree {
namespace {

template <class V>
typename V::F silu_times(typename V::F gate, typename V::F up) {
  const auto denominator = V::add(V::set(1.0f), exp<V>(V::sub(V::zero(), gate)));
  return V::mul(V::div(gate, denominator), up);
}

template <class V>
void swiglu(const float* gate, const float* up, size_t n, float* out) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) V::store(out + i, silu_times<V>(V::load(gate + i), V::load(up + i)));
  if (i < n) V::store_n(out + i, silu_times<V>(V::load_n(gate + i, n - i), V::load_n(up + i, n - i)), n - i);
}

template <class V>
ActivationOps activation_ops() {
  return {V::name, swiglu<V>};
}

}  // namespace
}  // namespace filigree
