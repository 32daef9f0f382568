#pragma once

#include "kernels/rope/rope.h"

namespace filigree {
namespace {

template <class V>
void rope_apply(float* row, size_t heads, size_t head_dim, const float* cos, const float* sin) {
  const size_t half = head_dim / 2;
  for (size_t h = 0; h < heads; ++h) {
    float* a = row + h * head_dim;
    float* b = a + half;
    size_t i = 0;
    for (; i + 16 <= half; i += 16) {
      const auto x = V::load(a + i), y = V::load(b + i), c = V::load(cos + i), s = V::load(sin + i);
      V::store(a + i, V::fnma(y, s, V::mul(x, c)));
      V::store(b + i, V::fma(x, s, V::mul(y, c)));
    }
    if (i < half) {
      const size_t n = half - i;
      const auto x = V::load_n(a + i, n), y = V::load_n(b + i, n), c = V::load_n(cos + i, n),
                 s = V::load_n(sin + i, n);
      V::store_n(a + i, V::fnma(y, s, V::mul(x, c)), n);
      V::store_n(b + i, V::fma(x, s, V::mul(y, c)), n);
    }
  }
}

template <class V>
RopeOps rope_ops() {
  return {V::name, rope_apply<V>};
}

}  // namespace
}  // namespace filigree
