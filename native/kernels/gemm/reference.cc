#include "kernels/gemm/gemm_lanes.h"

namespace filigree {
namespace {

template <class Number>
struct Scalars {
  using T = Number;
  using F = Number;
  static constexpr int lanes = 1;
  static F zero() { return 0; }
  static F load(const T* p) { return *p; }
  static void store(T* p, F a) { *p = a; }
  static F set(T x) { return x; }
  static F fma(F a, F b, F c) {
    if constexpr (sizeof(T) == 4) {
      return __builtin_fmaf(a, b, c);
    } else {
      return __builtin_fma(a, b, c);
    }
  }
};

}  // namespace

GemmOps gemm_scalar() {
  return {"scalar", gemm_tile_of<Scalars<float>, 4, 4>(), gemm_tile_of<Scalars<double>, 4, 4>(), {}, {}};
}

}  // namespace filigree
