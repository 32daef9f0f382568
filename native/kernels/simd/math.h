#pragma once

#include <cstddef>

// Elementary functions over 16 lanes, the same bits on every instruction set. See README.md.

namespace filigree {
namespace {

// 2^f for |f| <= 1/2: 1 + f * P(f), P the minimax polynomial of degree 5 of (2^f - 1) / f, relative error 2^-29 before rounding.
template <class V>
typename V::F exp2_fraction(typename V::F f) {
  auto p = V::set(0x1.44138ap-13f);
  p = V::fma(p, f, V::set(0x1.5f089p-10f));
  p = V::fma(p, f, V::set(0x1.3b2a54p-7f));
  p = V::fma(p, f, V::set(0x1.c6af6cp-5f));
  p = V::fma(p, f, V::set(0x1.ebfbep-3f));
  p = V::fma(p, f, V::set(0x1.62e43p-1f));
  return V::fma(p, f, V::set(1.0f));
}

// 2^x, within 1.5 ulp. exp2(0) = 1 and exp2(-inf) = 0 exactly, overflow to infinity, NaN stays NaN (min and max return their
// second operand where the two are unordered, so x stands second).
template <class V>
typename V::F exp2(typename V::F x) {
  x = V::max(V::set(-151.0f), V::min(V::set(129.0f), x));
  const auto n = V::round(x);
  return V::scalb(exp2_fraction<V>(V::sub(x, n)), n);
}

// e^x, within 2 ulp, the same limits. x * log2(e) is carried in two parts, so the reduction loses nothing.
template <class V>
typename V::F exp(typename V::F x) {
  x = V::max(V::set(-105.0f), V::min(V::set(89.5f), x));
  const auto high = V::set(0x1.715476p+0f);
  const auto n = V::round(V::mul(x, high));
  auto f = V::fma(x, high, V::sub(V::zero(), n));
  f = V::fma(x, V::set(0x1.4ae0cp-26f), f);
  return V::scalb(exp2_fraction<V>(f), n);
}

}  // namespace
}  // namespace filigree
