#pragma once

#include "kernels/sample/vocabulary.h"
#include "kernels/simd/math.h"

namespace filigree {
namespace {

template <class V>
LogitScan scan_logits(const float* x, size_t n) {
  const float none = -__builtin_inff();
  auto max = V::set(none);
  auto magnitude = V::zero_i();
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const auto v = V::load(x + i);
    max = V::max(v, max);
    magnitude = V::max_magnitude(magnitude, v);
  }
  if (i < n) {
    const auto v = V::load_n(x + i, n - i);
    max = V::max(V::keep(v, 0, static_cast<int>(n - i), none), max);
    magnitude = V::max_magnitude(magnitude, v);
  }
  LogitScan scan = {V::reduce_max(max), 0, V::reduce_max_i(magnitude) < 0x7f800000u};
  const auto largest = V::set(scan.max);
  for (i = 0; i + 16 <= n; i += 16) {
    if (const uint32_t mask = V::mask_ge(V::load(x + i), largest)) {
      scan.argmax = static_cast<int32_t>(i + static_cast<size_t>(__builtin_ctz(mask)));
      return scan;
    }
  }
  for (; i < n; ++i) {
    if (x[i] >= scan.max) {
      scan.argmax = static_cast<int32_t>(i);
      return scan;
    }
  }
  return scan;
}

template <class V>
typename V::F weight(typename V::F x, typename V::F shift, typename V::F scale) {
  return exp<V>(V::mul(V::sub(x, shift), scale));
}

template <class V>
double sum_exp(const float* x, size_t n, float shift, float scale, double* block_sums) {
  const auto s = V::set(shift), f = V::set(scale);
  double total = 0.0;
  for (size_t begin = 0, block = 0; begin < n; begin += kVocabularyBlock, ++block) {
    const size_t end = n - begin < kVocabularyBlock ? n : begin + kVocabularyBlock;
    auto even = V::zero(), odd = V::zero();
    size_t i = begin;
    for (; i + 32 <= end; i += 32) {
      even = V::add(even, weight<V>(V::load(x + i), s, f));
      odd = V::add(odd, weight<V>(V::load(x + i + 16), s, f));
    }
    for (; i < end; i += 16) {
      const size_t left = end - i;
      const auto w = weight<V>(V::load_n(x + i, left), s, f);
      even = V::add(even, V::keep(w, 0, left < 16 ? static_cast<int>(left) : 16, 0.0f));
    }
    const double sum = static_cast<double>(V::reduce_add(V::add(even, odd)));
    if (block_sums) block_sums[block] = sum;
    total += sum;
  }
  return total;
}

template <class V>
void exp_row(const float* x, size_t n, float shift, float scale, float* out) {
  const auto s = V::set(shift), f = V::set(scale);
  size_t i = 0;
  for (; i + 16 <= n; i += 16) V::store(out + i, weight<V>(V::load(x + i), s, f));
  if (i < n) V::store_n(out + i, weight<V>(V::load_n(x + i, n - i), s, f), n - i);
}

template <class V>
size_t collect(const float* x, size_t n, float threshold, Candidate* out) {
  const auto t = V::set(threshold);
  size_t count = 0, i = 0;
  for (; i + 16 <= n; i += 16) {
    for (uint32_t mask = V::mask_ge(V::load(x + i), t); mask; mask &= mask - 1) {
      const size_t j = i + static_cast<size_t>(__builtin_ctz(mask));
      out[count++] = {x[j], static_cast<int32_t>(j)};
    }
  }
  for (; i < n; ++i) {
    if (x[i] >= threshold) out[count++] = {x[i], static_cast<int32_t>(i)};
  }
  return count;
}

template <class V>
VocabularyOps vocabulary_ops() {
  return {V::name, scan_logits<V>, sum_exp<V>, exp_row<V>, collect<V>};
}

}  // namespace
}  // namespace filigree
