#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/platform.h"
#include "cuda_fp16.h"
#include "cuda_runtime_api.h"
#include "device.h"

// Stands in for native/cuda/ptx.cuh and for CUDA C++ itself: what the emulated kernels use of both, as C++ on the host (device.h).

#define threadIdx emulated::thread
#define blockIdx emulated::block
#define blockDim emulated::block_size
#define __global__ static
#define __device__
#define __shared__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

inline void __syncwarp() { emulated::warp_barrier(); }
inline void __syncthreads() { emulated::block_barrier(); }

namespace emulated {

template <class T>
T bits(uint64_t from) {
  T value;
  std::memcpy(&value, &from, sizeof value);
  return value;
}
template <class T>
void give(int slot, T value) {
  std::memcpy(&slots()[lane()][slot], &value, sizeof value);
}
template <class T>
T exchange(T mine, uint32_t from) {
  give(0, mine);
  warp_barrier();
  return bits<T>(given()[from][0]);
}

}  // namespace emulated

template <class T>
T __shfl_sync(uint32_t, T value, int from) {
  return emulated::exchange(value, static_cast<uint32_t>(from) % 32);
}
template <class T>
T __shfl_up_sync(uint32_t, T value, uint32_t by) {
  const uint32_t lane = emulated::lane();
  return emulated::exchange(value, lane >= by ? lane - by : lane);
}
template <class T>
T __shfl_xor_sync(uint32_t, T value, uint32_t lanes) {
  return emulated::exchange(value, emulated::lane() ^ lanes);
}
inline bool __syncthreads_or(bool mine) {
  static bool any;
  emulated::block_barrier();
  if (threadIdx.x == 0) any = false;
  emulated::block_barrier();
  any = any || mine;
  emulated::block_barrier();
  return any;
}
inline uint32_t atomicAdd(uint32_t* to, uint32_t by) { return std::exchange(*to, *to + by); }
template <class T>
T __reduce_max_sync(uint32_t, T value) {
  emulated::give(0, value);
  emulated::warp_barrier();
  for (const auto& slot : emulated::given()) value = std::max(value, emulated::bits<T>(slot[0]));
  return value;
}
inline bool __any_sync(uint32_t all, bool v) { return __reduce_max_sync(all, v ? 1 : 0) != 0; }
inline uint32_t __ballot_sync(uint32_t, bool mine) {
  emulated::give(0, uint32_t{mine} << emulated::lane());
  emulated::warp_barrier();
  uint32_t all = 0;
  for (const auto& slot : emulated::given()) all |= emulated::bits<uint32_t>(slot[0]);
  return all;
}
inline int __popc(uint32_t v) { return __builtin_popcount(v); }
inline uint32_t __dp4a(uint32_t a, uint32_t b, uint32_t c) {
  for (int i = 0; i < 4; ++i) c += (a >> 8 * i & 255) * (b >> 8 * i & 255);
  return c;
}
inline uint32_t __dp2a_lo(uint32_t a, uint32_t b, uint32_t c) {
  return c + (a & 0xffff) * (b & 255) + (a >> 16) * (b >> 8 & 255);
}
inline uint32_t __dp2a_hi(uint32_t a, uint32_t b, uint32_t c) { return __dp2a_lo(a, b >> 16, c); }
inline uint32_t __vmaxu2(uint32_t a, uint32_t b) {
  return std::max(a & 0xffff, b & 0xffff) | std::max(a >> 16, b >> 16) << 16;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}
template <class T>
void __stcg(T* to, T value) {
  *to = value;
}
inline float __uint_as_float(uint32_t u) { return emulated::bits<float>(u); }
inline uint32_t __float_as_uint(float f) {
  uint32_t u;
  std::memcpy(&u, &f, sizeof u);
  return u;
}
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __frcp_rn(float v) { return 1 / v; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline int __float2int_rn(float v) { return static_cast<int>(std::nearbyint(v)); }
inline float __log2f(float v) { return std::log2(v); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }

namespace filigree::cuda {

#define FILIGREE_DEVICE inline

extern uint8_t shared[];

template <class A, class B>
std::common_type_t<A, B> min(A a, B b) {
  return std::min<std::common_type_t<A, B>>(a, b);
}
template <class A, class B>
std::common_type_t<A, B> max(A a, B b) {
  return std::max<std::common_type_t<A, B>>(a, b);
}
inline float fmaf(float a, float b, float c) { return std::fma(a, b, c); }

inline uint32_t lanes_below() { return (uint32_t{1} << emulated::lane()) - 1; }

inline float exp2_approx(float v) { return std::exp2(v); }

inline float low_bf16(uint32_t v) { return __uint_as_float(v << 16); }
inline float high_bf16(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }
inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = uint64_t{b} << 32 | a;
  uint32_t out = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t pick = selector >> 4 * i & 15;
    uint32_t byte = static_cast<uint32_t>(both >> 8 * (pick & 7)) & 255;
    if (pick & 8) byte = byte & 128 ? 255 : 0;  // the sign of that byte
    out |= byte << 8 * i;
  }
  return out;
}

// Shared addresses count from the start of `shared`; what a kernel declares beside it (barriers) has no address here.
inline uint32_t shared_address(const void* p) {
  const ptrdiff_t at = static_cast<const uint8_t*>(p) - shared;
  return at >= 0 && at < static_cast<ptrdiff_t>(emulated::kSharedBytes) ? static_cast<uint32_t>(at) : 0;
}
inline uint8_t* shared_bytes(uint32_t address, uint32_t bytes) {
  if (address + bytes > emulated::kSharedBytes) {
    std::fprintf(stderr, "emulated device: shared address %u\n", address);
    std::abort();
  }
  return shared + address;
}
inline uint32_t shared_u32_ordered(uint32_t address) {
  uint32_t v;
  std::memcpy(&v, shared_bytes(address, 4), 4);
  return v;
}
inline void store_shared_u32(uint32_t address, uint32_t v) { std::memcpy(shared_bytes(address, 4), &v, 4); }
inline void store_shared_u64(uint32_t address, uint32_t low, uint32_t high) {
  store_shared_u32(address, low), store_shared_u32(address + 4, high);
}

inline void load_if(uint4& to, const uint4* from, bool wanted) {
  if (wanted) to = *from;
}
inline void load_if(float2& to, const float2* from, bool wanted) {
  if (wanted) to = *from;
}
inline uint32_t arrive(uint32_t* counter, uint32_t last) {
  const uint32_t before = *counter;
  *counter = before == last ? 0 : before + 1;
  return before;
}
inline void wait_for_inputs() {}
inline void let_next_start() {}
inline void copy_async16(uint32_t to, const void* from) { emulated::begin_copy(to, from, 16); }
inline void copy_async16_or_zero(uint32_t to, const void* from, bool wanted) {
  emulated::begin_copy(to, wanted ? from : nullptr, 16);
}
inline void copy_async_commit() { emulated::end_copy_group(); }
template <int Pending>
void copy_async_wait() {
  emulated::wait_for_copies(Pending);
}

// A fill arrives at once: a stage that is still read shows.
template <int Stages>
struct WarpRing {
  uint32_t stage0 = 0, stage_bytes = 0;
  int lane = 0;

  void start(uint32_t, uint32_t first_stage, uint32_t bytes, int my_lane) {
    stage0 = first_stage, stage_bytes = bytes, lane = my_lane;
  }
  void fill(int i, const uint8_t* from, uint32_t bytes) {
    if (bytes == 0 || bytes > stage_bytes || bytes % 16 != 0) {
      std::fprintf(stderr, "emulated device: %u bytes for a stage of %u\n", bytes, stage_bytes);
      std::abort();
    }
    if (lane != 0) return;
    const uint32_t to = stage0 + static_cast<uint32_t>(i % Stages) * stage_bytes;
    std::memcpy(shared_bytes(to, bytes), from, bytes);
    emulated::filled(stage0, i) = true;
  }
  void skip() {}
  void wait(int i) {
    while (!emulated::filled(stage0, i)) emulated::yield();
  }
};

// Registers of all lanes of a warp.
struct Registers {
  uint32_t of[32][8];
};
inline Registers all_lanes(std::initializer_list<uint32_t> mine) {
  int slot = 0;
  for (const uint32_t v : mine) emulated::give(slot++, v);
  emulated::warp_barrier();
  Registers r;
  for (int l = 0; l < 32; ++l)
    for (int i = 0; i < 8; ++i) r.of[l][i] = emulated::bits<uint32_t>(emulated::given()[l][i]);
  return r;
}

// What a register holds of a fragment of 16 bits or 8: kPer elements that add up to a Sum.
struct Bf16 {
  using Sum = float;
  static constexpr int kPer = 2;
  static float element(uint32_t word, int i) { return i ? high_bf16(word) : low_bf16(word); }
};
struct F16 {
  using Sum = float;
  static constexpr int kPer = 2;
  static float element(uint32_t word, int i) {
    static const std::vector<float> values = [] {
      std::vector<float> all;
      for (uint32_t code = 0; code < 1u << 16; ++code) all.push_back(emulated::F16::value(code));
      return all;
    }();
    return values[word >> 16 * i & 0xffff];
  }
};
struct I8 {
  using Sum = int;
  static constexpr int kPer = 4;
  static int element(uint32_t word, int i) { return static_cast<int8_t>(word >> 8 * i & 255); }
};
template <class Sum>
using ElementOf = std::conditional_t<std::is_same_v<Sum, float>, Bf16, I8>;
// Row `row`, column k of an A fragment whose registers are 0 to 3; column n, row k of a B fragment whose registers are 4 on.
template <class E>
typename E::Sum a_element(const Registers& r, int row, int k) {
  constexpr int per = E::kPer;
  return E::element(r.of[row % 8 * 4 + k % (4 * per) / per][row / 8 + 2 * (k / (4 * per))], k % per);
}
template <class E>
typename E::Sum b_element(const Registers& r, int n, int k) {
  constexpr int per = E::kPer;
  return E::element(r.of[n * 4 + k % (4 * per) / per][4 + k / (4 * per)], k % per);
}

template <class E>
void multiply_as(typename E::Sum (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const Registers r = all_lanes({a[0], a[1], a[2], a[3], b0, b1});
  const int g = static_cast<int>(emulated::lane()) / 4, t = static_cast<int>(emulated::lane()) % 4;
  for (int j = 0; j < 4; ++j) {
    for (int k = 0; k < 8 * E::kPer; ++k)
      c[j] += a_element<E>(r, g + 8 * (j / 2), k) * b_element<E>(r, 2 * t + j % 2, k);
  }
}
template <class Sum>
void mma(Sum (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_as<ElementOf<Sum>>(c, a, b0, b1);
}
inline void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_as<F16>(c, a, b0, b1);
}
// PTX ISA, "sparse matrix fragments": which lane of a quad holds a row's metadata, and where in its word.
template <int Selector, class Sum>
void mma_sparse(Sum (&c)[4], const uint4& a, const uint4& b, uint32_t meta) {
  constexpr bool bf16 = std::is_same_v<Sum, float>;
  const Registers r = all_lanes({a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}), m = all_lanes({meta});
  const int g = static_cast<int>(emulated::lane()) / 4, t = static_cast<int>(emulated::lane()) % 4;
  for (int j = 0; j < 4; ++j) {
    const int row = g + 8 * (j / 2);
    for (int k = 0; k < 8 * ElementOf<Sum>::kPer; ++k) {
      const int four = k / 2;
      const int from = row % 8 * 4 + (bf16 ? 2 * Selector + four / 4 : four / 8 * 2 + row / 8);
      const int shift = (bf16 ? 16 * (row / 8) + 4 * (four % 4) : 4 * (four % 8)) + 2 * (k % 2);
      const int column = four * 4 + static_cast<int>(m.of[from][0] >> shift & 3);
      c[j] += a_element<ElementOf<Sum>>(r, row, k) * b_element<ElementOf<Sum>>(r, 2 * t + j % 2, column);
    }
  }
}
inline uint4 load_matrices(uint32_t address) {
  const Registers r = all_lanes({address});
  const uint32_t lane = emulated::lane();
  uint32_t out[4];
  for (uint32_t i = 0; i < 4; ++i) out[i] = shared_u32_ordered(r.of[i * 8 + lane / 4][0] + lane % 4 * 4);
  return make_uint4(out[0], out[1], out[2], out[3]);
}
inline uint4 load_matrices_transposed(uint32_t address) {
  const Registers r = all_lanes({address});
  const uint32_t lane = emulated::lane(), column = lane / 4 * 2;
  uint32_t out[4];
  for (uint32_t i = 0; i < 4; ++i) {
    uint16_t two[2];
    for (uint32_t k = 0; k < 2; ++k)
      std::memcpy(&two[k], shared_bytes(r.of[i * 8 + lane % 4 * 2 + k][0] + column, 2), 2);
    out[i] = two[0] | uint32_t{two[1]} << 16;
  }
  return make_uint4(out[0], out[1], out[2], out[3]);
}

}  // namespace filigree::cuda
