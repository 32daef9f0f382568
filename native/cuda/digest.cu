#include "cuda/digest.h"
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"

namespace filigree::cuda {
namespace {

constexpr uint32_t kThreads = 1024, kGroups = 256, kMostStanding = 1024;

struct Arguments {
  const float* logits;
  uint32_t columns;
  const DigestWanted* wanted;
  LogitDigest* out;
};

// A logit and its id as one number: larger is likelier, of equal logits the lower id is. None is 0.
FILIGREE_DEVICE uint64_t key_of(float logit, uint32_t id) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);  // the two zeros are equal
  return uint64_t{bits >> 31 ? ~bits : bits | 1u << 31} << 32 | ~id;
}
FILIGREE_DEVICE uint32_t id_of(uint64_t key) { return ~static_cast<uint32_t>(key); }

FILIGREE_DEVICE uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

FILIGREE_DEVICE void write(LogitDigest& out, uint32_t rank, const float* row, uint64_t key) {
  out.largest[rank] = {row[id_of(key)], static_cast<int32_t>(id_of(key))};
}

// exp((x - shift) * scale) of an x up to shift, with the steps, and so the bits, of kernels/simd/math.h.
FILIGREE_DEVICE float weight(float x, float shift, float scale) {
  x = max((x - shift) * scale, -105.0f);
  const float n = rintf(__fmul_rn(x, 0x1.715476p+0f));
  float f = fmaf(x, 0x1.715476p+0f, -n);
  f = fmaf(x, 0x1.4ae0cp-26f, f);
  float p = fmaf(0x1.44138ap-13f, f, 0x1.5f089p-10f);
  p = fmaf(p, f, 0x1.3b2a54p-7f);
  p = fmaf(p, f, 0x1.c6af6cp-5f);
  p = fmaf(p, f, 0x1.ebfbep-3f);
  p = fmaf(p, f, 0x1.62e43p-1f);
  p = fmaf(p, f, 1.0f);
  const int e = static_cast<int>(n), half = e >> 1;
  return __fmul_rn(__fmul_rn(p, __uint_as_float(static_cast<uint32_t>(half + 127) << 23)),
                   __uint_as_float(static_cast<uint32_t>(e - half + 127) << 23));
}

// The weights of columns begin to end, on lane 0: in 16 lanes, even and odd runs of 16 apart.
FILIGREE_DEVICE float sum_weights(const float* row, uint32_t begin, uint32_t end, float shift, float scale) {
  const uint32_t lane = threadIdx.x % 32;
  float sum = 0;
  uint32_t i = begin;
#pragma unroll 4
  for (; i + 32 <= end; i += 32) sum = __fadd_rn(sum, weight(row[i + lane], shift, scale));
  for (; i < end; i += 16) {
    if (lane < 16 && i + lane < end) sum = __fadd_rn(sum, weight(row[i + lane], shift, scale));
  }
  for (uint32_t lanes = 16; lanes > 0; lanes /= 2) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, lanes));
  return sum;
}

// A block takes a row (196 KiB of a vocabulary of 49,152, from L2). Its threads' columns, interleaved, are groups; where k logits are
// wanted, the likeliest of the k-th likeliest group bounds them from below: k groups have one that is as likely. Whatever stands above
// that bound (k and a few more, unless the likely ids crowd into few groups) is ranked by counting.
__global__ void __launch_bounds__(kThreads) digest_kernel(const Arguments a) {
  __shared__ uint64_t groups[kGroups], standing[kMostStanding], bound;
  __shared__ uint32_t found, block;
  __shared__ float sums[kMostDigestBlocks];
  const uint32_t thread = threadIdx.x, columns = a.columns;
  const DigestWanted wanted = a.wanted[blockIdx.x];
  const uint32_t most = min(wanted.largest, columns);
  LogitDigest& out = a.out[blockIdx.x];
  const float* const row = a.logits + size_t{blockIdx.x} * columns;
  let_next_start();
  wait_for_inputs();

  float largest = -INFINITY;
  uint32_t id = 0, magnitude = 0;
#pragma unroll 8
  for (uint32_t i = thread; i < columns; i += kThreads) {
    const float x = row[i];
    magnitude = max(magnitude, __float_as_uint(x) & 0x7fffffffu);
    if (x > largest) largest = x, id = i;
  }
  if (most == 0) return;  // only here: what is wanted is on its way over the bus, too
  uint64_t best = largest > -INFINITY ? key_of(largest, id) : 0;
  for (uint32_t lanes = 1; lanes < kThreads / kGroups; lanes *= 2)
    best = larger(best, __shfl_xor_sync(~0u, best, lanes));
  if (thread % (kThreads / kGroups) == 0) groups[thread / (kThreads / kGroups)] = best;
  if (thread == 0) found = 0, bound = 0;
  if (__syncthreads_or(magnitude >= 0x7f800000u)) {
    if (thread == 0) out.count = 0;
    return;
  }
  for (uint32_t g = thread % 32; g < kGroups; g += 32) best = larger(best, groups[g]);
  for (uint32_t lanes = 1; lanes < 32; lanes *= 2) best = larger(best, __shfl_xor_sync(~0u, best, lanes));

  if (wanted.scale > 0) {
    const float shift = row[id_of(best)];
    const uint32_t blocks = (columns + kDigestBlock - 1) / kDigestBlock;
    for (uint32_t b = thread / 32; b < blocks; b += kThreads / 32) {
      const uint32_t begin = b * kDigestBlock;
      const float sum = sum_weights(row, begin, min(begin + kDigestBlock, columns), shift, wanted.scale);
      if (thread % 32 == 0) sums[b] = sum;
    }
    __syncthreads();
    if (thread == 0) {
      double total = 0;
      for (uint32_t b = 0; b < blocks; ++b) total += static_cast<double>(sums[b]);
      double rest = __dmul_rn(wanted.uniform, total);
      uint32_t last = 0, b = 0;
      for (; b < blocks && wanted.uniform >= 0; ++b) {
        const double sum = static_cast<double>(sums[b]);
        if (sum > 0) last = b;
        if (rest < sum) break;
        rest -= sum;
      }
      block = (b < blocks ? b : last) * kDigestBlock;  // rounding may carry it past the end
      out.total = total, out.rest = rest, out.block = block;
    }
    __syncthreads();
    if (wanted.uniform >= 0 && thread < kDigestBlock && block + thread < columns)
      out.logits[thread] = row[block + thread];
  }

  if (most == 1) {
    if (thread == 0) write(out, 0, row, best), out.count = 1;
    return;
  }
  if (thread < kGroups && groups[thread] > 0) {
    uint32_t above = 0;
    for (const uint64_t other : groups) above += other > groups[thread];
    if (above == most - 1) bound = groups[thread];
  }
  __syncthreads();
  const float least = bound > 0 ? row[id_of(bound)] : -INFINITY;
#pragma unroll 8
  for (uint32_t i = thread; i < columns; i += kThreads) {
    const float x = row[i];
    if (x < least || key_of(x, i) < bound) continue;
    const uint32_t slot = atomicAdd(&found, 1u);
    if (slot < kMostStanding) standing[slot] = key_of(x, i);
  }
  __syncthreads();
  const uint32_t stand = found;
  if (thread == 0) out.count = stand <= kMostStanding ? most : 0;
  if (thread >= stand || stand > kMostStanding) return;
  uint32_t rank = 0;
  for (uint32_t i = 0; i < stand; ++i) rank += standing[i] > standing[thread];
  if (rank < most) write(out, rank, row, standing[thread]);
}

}  // namespace

cudaError_t digest_logits(const float* logits, uint32_t rows, uint32_t columns, const DigestWanted* wanted,
                          LogitDigest* out, bool dependent, cudaStream_t stream) {
  return launch(digest_kernel, dim3(rows), kThreads, 0, dependent, stream,
                Arguments{logits, columns, wanted, out});
}

}  // namespace filigree::cuda
