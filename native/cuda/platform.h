#pragma once

#include <cstddef>
#include <cstdint>

// What is compiled for both sides: packing runs on the device when a model is loaded and on the host in the tests, from one
// source, so that the two agree bit for bit. These headers keep to C++17, which is what nvcc is given.
#ifdef __CUDACC__
#define FILIGREE_HD __host__ __device__
#else
#define FILIGREE_HD
#endif

namespace filigree::cuda {

// One stored weight. bf16: its bits; i8 and i4: a code that a scale multiplies.
enum class Values : uint32_t { bf16 = 0, i8 = 1, i4 = 2 };

inline constexpr uint32_t kLanes = 32;

template <class T>
FILIGREE_HD constexpr T round_up(T n, T unit) {
  return (n + unit - 1) / unit * unit;
}
template <class T>
FILIGREE_HD constexpr T ceil_div(T n, T unit) {
  return (n + unit - 1) / unit;
}

}  // namespace filigree::cuda
