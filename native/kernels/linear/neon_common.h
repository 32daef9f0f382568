#pragma once
// Helpers of the NEON kernels. Everything here has internal linkage: the header is compiled for more than one instruction set.
#include <arm_neon.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "kernels/linear/linear.h"

#define FILIGREE_INLINE __attribute__((always_inline)) inline

namespace filigree::linear {
namespace {

template <class T>
FILIGREE_INLINE T load_as(const void* p) {
  T v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
FILIGREE_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

// Writes rows [row, row + 4) of one token, those below `rows` only.
FILIGREE_INLINE void store_rows(float* out, uint32_t row, uint32_t rows, float32x4_t v) {
  if (row + 4 <= rows) {
    vst1q_f32(out + row, v);
  } else if (row < rows) {
    float all[4];
    vst1q_f32(all, v);
    std::memcpy(out + row, all, (rows - row) * sizeof(float));
  }
}

// P cursors of consecutive panels.
template <class Cursor, int P>
FILIGREE_INLINE std::array<Cursor, P> cursors_at(const Matrix& m, uint32_t panel) {
  return [&]<size_t... I>(std::index_sequence<I...>) {
    return std::array<Cursor, P>{Cursor(m, panel + static_cast<uint32_t>(I))...};
  }(std::make_index_sequence<P>());
}

}  // namespace
}  // namespace filigree::linear
