#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/platform.h"

// Instructions that CUDA C++ has no name for. What an architecture lacks (dependent launch and bulk copies before sm_90) stands
// here once, so that kernels need not ask.

namespace filigree::cuda {

#define FILIGREE_DEVICE __device__ __forceinline__

FILIGREE_DEVICE uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t d;
  asm("prmt.b32 %0,%1,%2,%3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
  return d;
}

// Weights are read once: past L1.
FILIGREE_DEVICE uint4 load_once(const uint4* p) {
  uint4 r;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
               : "l"(p));
  return r;
}
FILIGREE_DEVICE uint2 load_once(const uint2* p) {
  uint2 r;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1},[%2];" : "=r"(r.x), "=r"(r.y) : "l"(p));
  return r;
}
FILIGREE_DEVICE uint32_t load_once(const uint32_t* p) {
  uint32_t r;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0,[%1];" : "=r"(r) : "l"(p));
  return r;
}
// The same under a predicate, without a branch; otherwise `fill`.
FILIGREE_DEVICE uint4 load_once_if(const uint4* p, bool wanted, uint32_t fill) {
  uint4 r = make_uint4(fill, fill, fill, fill);
  asm volatile(
      "{.reg .pred q; setp.ne.s32 q,%5,0; @q ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];}"
      : "+r"(r.x), "+r"(r.y), "+r"(r.z), "+r"(r.w)
      : "l"(p), "r"(static_cast<int>(wanted)));
  return r;
}
FILIGREE_DEVICE uint2 load_once_if(const uint2* p, bool wanted, uint32_t fill) {
  uint2 r = make_uint2(fill, fill);
  asm volatile("{.reg .pred q; setp.ne.s32 q,%3,0; @q ld.global.nc.L1::no_allocate.v2.u32 {%0,%1},[%2];}"
               : "+r"(r.x), "+r"(r.y)
               : "l"(p), "r"(static_cast<int>(wanted)));
  return r;
}
FILIGREE_DEVICE uint32_t load_once_if(const uint32_t* p, bool wanted, uint32_t fill) {
  uint32_t r = fill;
  asm volatile("{.reg .pred q; setp.ne.s32 q,%2,0; @q ld.global.nc.L1::no_allocate.u32 %0,[%1];}"
               : "+r"(r)
               : "l"(p), "r"(static_cast<int>(wanted)));
  return r;
}

// Read once, as above, where this launch may write beside it. Where it is not wanted, `to` stays.
FILIGREE_DEVICE void load_if(uint4& to, const uint4* from, bool wanted) {
  asm volatile("{.reg .pred q; setp.ne.s32 q,%5,0; @q ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];}"
               : "+r"(to.x), "+r"(to.y), "+r"(to.z), "+r"(to.w)
               : "l"(from), "r"(static_cast<int>(wanted)));
}
FILIGREE_DEVICE void load_if(float2& to, const float2* from, bool wanted) {
  asm volatile("{.reg .pred q; setp.ne.s32 q,%3,0; @q ld.global.L1::no_allocate.v2.f32 {%0,%1},[%2];}"
               : "+f"(to.x), "+f"(to.y)
               : "l"(from), "r"(static_cast<int>(wanted)));
}

// Counts up to `last`, then from 0 again; gives the count before. What the block wrote before its last barrier is seen by whom a later count
// tells of this one.
FILIGREE_DEVICE uint32_t arrive(uint32_t* counter, uint32_t last) {
  uint32_t before;
  asm volatile("atom.inc.acq_rel.gpu.global.u32 %0,[%1],%2;"
               : "=r"(before)
               : "l"(counter), "r"(last)
               : "memory");
  return before;
}

FILIGREE_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(y) : "f"(x));
  return y;
}

FILIGREE_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
FILIGREE_DEVICE float shared_f32(uint32_t a) {
  float v;
  asm("ld.shared.f32 %0,[%1];" : "=f"(v) : "r"(a));
  return v;
}
FILIGREE_DEVICE float shared_bf16(uint32_t a) {
  uint32_t v;
  asm("{.reg .u16 h; ld.shared.u16 h,[%1]; cvt.u32.u16 %0,h;}" : "=r"(v) : "r"(a));
  return __uint_as_float(v << 16);
}
FILIGREE_DEVICE float shared_f16(uint32_t a) {
  float v;
  asm("{.reg .f16 h; ld.shared.b16 h,[%1]; cvt.f32.f16 %0,h;}" : "=f"(v) : "r"(a));
  return v;
}
FILIGREE_DEVICE uint32_t shared_u32(uint32_t a) {
  uint32_t v;
  asm("ld.shared.u32 %0,[%1];" : "=r"(v) : "r"(a));
  return v;
}
// In order with each other, as the compiler sees them.
FILIGREE_DEVICE uint32_t shared_u32_ordered(uint32_t a) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0,[%1];" : "=r"(v) : "r"(a));
  return v;
}
FILIGREE_DEVICE void store_shared_u64(uint32_t address, uint32_t low, uint32_t high) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(low), "r"(high) : "memory");
}
FILIGREE_DEVICE void store_shared_u32(uint32_t a, uint32_t v) {
  asm volatile("st.shared.u32 [%0],%1;" ::"r"(a), "r"(v) : "memory");
}
FILIGREE_DEVICE uint2 shared_u64(uint32_t a) {
  uint2 v;
  asm("ld.shared.v2.u32 {%0,%1},[%2];" : "=r"(v.x), "=r"(v.y) : "r"(a));
  return v;
}
FILIGREE_DEVICE uint32_t shared_u8(uint32_t a) {
  uint32_t v;
  asm("ld.shared.u8 %0,[%1];" : "=r"(v) : "r"(a));
  return v;
}

FILIGREE_DEVICE uint32_t lanes_below() {
  uint32_t r;
  asm("mov.u32 %0,%%lanemask_lt;" : "=r"(r));
  return r;
}

FILIGREE_DEVICE float low_bf16(uint32_t v) { return __uint_as_float(v << 16); }
FILIGREE_DEVICE float high_bf16(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }

// Programmatic dependent launch: a kernel may start, and fetch weights, while the one before it still runs. What that one
// writes may be read only after wait_for_inputs().
FILIGREE_DEVICE void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
FILIGREE_DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

FILIGREE_DEVICE void copy_async16(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(to), "l"(from) : "memory");
}
FILIGREE_DEVICE void copy_async8(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0],[%1],8;" ::"r"(to), "l"(from) : "memory");
}
// Zeros where nothing is wanted; `from` must be a valid address even so.
FILIGREE_DEVICE void copy_async16_or_zero(uint32_t to, const void* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(to), "l"(from), "r"(wanted ? 16 : 0)
               : "memory");
}
FILIGREE_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
FILIGREE_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// A ring of stages in shared memory that one warp fills with copies of varying length and reads in order.
template <int Stages>
struct WarpRing {
  static constexpr size_t barrier_bytes = Stages * 8;
  uint32_t barriers, stage0, stage_bytes;
  int lane;

  FILIGREE_DEVICE void start(uint32_t barrier_address, uint32_t first_stage, uint32_t bytes, int my_lane) {
    barriers = barrier_address, stage0 = first_stage, stage_bytes = bytes, lane = my_lane;
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
#pragma unroll
      for (int s = 0; s < Stages; ++s)
        asm volatile("mbarrier.init.shared::cta.b64 [%0],1;" ::"r"(barriers + s * 8));
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncwarp();
#endif
  }
  FILIGREE_DEVICE uint32_t stage(int i) const { return stage0 + (i % Stages) * stage_bytes; }

  // Copies `bytes` (a multiple of 16) into stage i % Stages. The warp must have read what was there. All lanes call it.
  FILIGREE_DEVICE void fill(int i, const uint8_t* from, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
      const uint32_t barrier = barriers + (i % Stages) * 8;
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(barrier), "r"(bytes)
                   : "memory");
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];" ::"r"(
              stage(i)),
          "l"(from), "r"(bytes), "r"(barrier)
          : "memory");
    }
#else
    for (uint32_t at = lane * 16; at < bytes; at += 32 * 16) copy_async16(stage(i) + at, from + at);
    copy_async_commit();
#endif
  }
  // Where there is nothing left to fill: keeps the count of groups.
  FILIGREE_DEVICE void skip() {
#if __CUDA_ARCH__ < 900
    copy_async_commit();
#endif
  }
  FILIGREE_DEVICE void wait(int i) {
#if __CUDA_ARCH__ >= 900
    uint32_t done;
    const uint32_t barrier = barriers + (i % Stages) * 8, parity = (i / Stages) & 1;
    do {
      asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p,[%1],%2; selp.u32 %0,1,0,p;}"
                   : "=r"(done)
                   : "r"(barrier), "r"(parity)
                   : "memory");
    } while (!done);
#else
    copy_async_wait<Stages - 1>();
    __syncwarp();
#endif
  }
};

// Tensor-core products of a 16-row fragment of weights with 8 tokens.
FILIGREE_DEVICE void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
FILIGREE_DEVICE void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
FILIGREE_DEVICE void mma(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The same with 2:4 weights; Selector names the threads of a quad whose `meta` counts.
template <int Selector>
FILIGREE_DEVICE void mma_sparse(float (&c)[4], uint4 a, uint4 b, uint32_t meta) {
  asm volatile(
      "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9,%10,%11},{%0,%1,%2,%3},%12,%13;"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(b.z), "r"(b.w), "r"(meta),
        "n"(Selector));
}
template <int Selector>
FILIGREE_DEVICE void mma_sparse(int (&c)[4], uint4 a, uint4 b, uint32_t meta) {
  asm volatile(
      "mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9,%10,%11},{%0,%1,%2,%3},%12,0;"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(b.z), "r"(b.w), "r"(meta));
}
// Four 8x8 matrices of 16-bit elements (or 8x16 of bytes), lane l giving the address of row l % 8 of matrix l / 8.
FILIGREE_DEVICE uint4 load_matrices(uint32_t address) {
  uint4 r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
               : "r"(address));
  return r;
}
FILIGREE_DEVICE uint4 load_matrices_transposed(uint32_t address) {
  uint4 r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
               : "r"(address));
  return r;
}

}  // namespace filigree::cuda
