#pragma once

#include "kernels/gemm/gemm.h"

namespace filigree {
namespace {

// V: T, F (a vector register or a few of it), lanes, and load, store, set, zero, fma on it.
template <class V, int Rows, int Vectors>
void gemm_tile(size_t k, const typename V::T* a, const typename V::T* b, typename V::T* c) {
  typename V::F sum[Rows][Vectors];
  for (int i = 0; i < Rows; ++i)
    for (int v = 0; v < Vectors; ++v) sum[i][v] = V::zero();
  for (size_t p = 0; p < k; ++p, a += Rows, b += Vectors * V::lanes) {
    typename V::F right[Vectors];
    for (int v = 0; v < Vectors; ++v) right[v] = V::load(b + v * V::lanes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const typename V::F left = V::set(a[i]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[i][v] = V::fma(left, right[v], sum[i][v]);
    }
  }
  for (int i = 0; i < Rows; ++i)
    for (int v = 0; v < Vectors; ++v) V::store(c + (i * Vectors + v) * V::lanes, sum[i][v]);
}

template <class V, int Rows, int Vectors>
constexpr GemmTile<typename V::T> gemm_tile_of() {
  return {Rows, Vectors * V::lanes, gemm_tile<V, Rows, Vectors>};
}

}  // namespace
}  // namespace filigree
