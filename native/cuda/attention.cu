#include "cuda/layers.h"
#include "cuda/pages.cuh"
#include "cuda/store.cuh"

namespace filigree::cuda {
namespace {

constexpr uint32_t kAttendThreads = 128;

// A row of the cache is read in pieces of 16 bytes; a thread asks for kAhead of them before it uses the first.
constexpr uint32_t kPiece = 8, kAhead = 4;

// One split of one row's context, for the Group query heads that share a key head. Eight lanes take a key; of the values a thread
// takes a piece of every parts-th position.
template <class T, int Group>
__global__ void __launch_bounds__(kAttendThreads)
    attend_kernel(const StepRows rows, const AttentionShape shape, const float* q, const KvPages kv,
                  uint32_t splits, float* partials) {
  extern __shared__ __align__(16) float memory[];
  constexpr const T* kType = nullptr;
  const uint32_t kv_head = blockIdx.x, row = blockIdx.y, split = blockIdx.z, dim = kv.head_dim;
  let_next_start();
  wait_for_inputs();
  const int32_t position = rows.positions[row];
  if (position < 0) return;
  const uint32_t context = static_cast<uint32_t>(position) + 1;
  const uint32_t oldest =
      shape.sliding_window && context > shape.sliding_window ? context - shape.sliding_window : 0;
  const uint32_t first = split * shape.split_positions, begin = max(first, oldest);
  const uint32_t end = min(first + shape.split_positions, context);
  if (begin >= end) return;
  const uint32_t pieces = dim / kPiece, parts = kAttendThreads / pieces;
  float* const query = memory;                                 // [Group][dim]
  float* const scores = query + Group * dim;                   // [Group][split_positions]
  float* const sums = scores + Group * shape.split_positions;  // [warps][Group], then [parts][Group][dim + 2]
  uint32_t* const blocks = reinterpret_cast<uint32_t*>(sums + parts * Group * (dim + 2));  // of the split
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int32_t* const table = rows.block_tables + static_cast<size_t>(rows.tables[row]) * rows.table_stride;
  for (uint32_t i = thread; i < ceil_div(end - first, kBlockTokens); i += kAttendThreads)
    blocks[i] = static_cast<uint32_t>(table[first / kBlockTokens + i]);
  for (uint32_t i = thread; i < Group * dim; i += kAttendThreads)
    query[i] = q[(static_cast<size_t>(row) * shape.heads + kv_head * Group) * dim + i] * shape.scale;
  __syncthreads();
  // Row of a position, in pieces.
  const auto place = [&](uint32_t p) {
    return ((static_cast<size_t>(blocks[(p - first) / kBlockTokens]) * kv.kv_heads + kv_head) * kBlockTokens +
            p % kBlockTokens) *
           pieces;
  };

  const uint4* const keys = static_cast<const uint4*>(kv.keys);
  const uint32_t eighth = lane % 8;
  float most[Group];
#pragma unroll
  for (int g = 0; g < Group; ++g) most[g] = -INFINITY;
  constexpr uint32_t kStep = kAttendThreads / 8;
  for (uint32_t p0 = begin + warp * 4; p0 < end; p0 += kStep * kAhead) {
    float dot[kAhead][Group] = {};
    for (uint32_t piece = eighth; piece < pieces; piece += 8) {
      uint4 key[kAhead];
#pragma unroll
      for (uint32_t u = 0; u < kAhead; ++u) {
        const uint32_t p = p0 + u * kStep + lane / 8;
        key[u] = p < end ? keys[place(p) + piece] : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        float2 part[Group];
#pragma unroll
        for (int g = 0; g < Group; ++g)
          part[g] = *reinterpret_cast<const float2*>(query + g * dim + piece * kPiece + 2 * i);
#pragma unroll
        for (uint32_t u = 0; u < kAhead; ++u) {
          const uint32_t bits = i == 0 ? key[u].x : i == 1 ? key[u].y : i == 2 ? key[u].z : key[u].w;
          const float2 k = widen(bits, kType);
#pragma unroll
          for (int g = 0; g < Group; ++g) dot[u][g] = fmaf(k.y, part[g].y, fmaf(k.x, part[g].x, dot[u][g]));
        }
      }
    }
#pragma unroll
    for (uint32_t u = 0; u < kAhead; ++u) {
      const uint32_t p = p0 + u * kStep + lane / 8;
#pragma unroll
      for (int g = 0; g < Group; ++g) {
#pragma unroll
        for (int o = 4; o; o >>= 1) dot[u][g] += __shfl_xor_sync(~0u, dot[u][g], o);
        if (p < end) {
          most[g] = fmaxf(most[g], dot[u][g]);
          if (eighth == 0) scores[g * shape.split_positions + p - begin] = dot[u][g];
        }
      }
    }
  }
#pragma unroll
  for (int g = 0; g < Group; ++g) {
#pragma unroll
    for (int o = 16; o; o >>= 1) most[g] = fmaxf(most[g], __shfl_xor_sync(~0u, most[g], o));
    if (lane == 0) sums[warp * Group + g] = most[g];
  }
  __syncthreads();
#pragma unroll
  for (int g = 0; g < Group; ++g) {
    most[g] = -INFINITY;
    for (uint32_t w = 0; w < kAttendThreads / 32; ++w) most[g] = fmaxf(most[g], sums[w * Group + g]);
  }
  for (uint32_t i = thread; i < end - begin; i += kAttendThreads) {
#pragma unroll
    for (int g = 0; g < Group; ++g) {
      float* s = scores + g * shape.split_positions + i;
      *s = __expf(*s - most[g]);
    }
  }
  __syncthreads();

  const uint4* const values = static_cast<const uint4*>(kv.values);
  const uint32_t piece = thread % pieces, part = thread / pieces;
  if (part < parts) {
    float sum[Group][kPiece] = {}, total[Group] = {};
    for (uint32_t p0 = begin + part; p0 < end; p0 += parts * kAhead) {
      uint4 value[kAhead];
#pragma unroll
      for (uint32_t u = 0; u < kAhead; ++u) {
        const uint32_t p = p0 + u * parts;
        value[u] = p < end ? values[place(p) + piece] : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (uint32_t u = 0; u < kAhead; ++u) {
        const uint32_t p = p0 + u * parts;
        const float2 v[4] = {widen(value[u].x, kType), widen(value[u].y, kType), widen(value[u].z, kType),
                             widen(value[u].w, kType)};
#pragma unroll
        for (int g = 0; g < Group; ++g) {
          const float w = p < end ? scores[g * shape.split_positions + p - begin] : 0.0f;
          total[g] += w;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sum[g][2 * i] = fmaf(w, v[i].x, sum[g][2 * i]);
            sum[g][2 * i + 1] = fmaf(w, v[i].y, sum[g][2 * i + 1]);
          }
        }
      }
    }
#pragma unroll
    for (int g = 0; g < Group; ++g) {
      float* to = sums + (part * Group + g) * (dim + 2);
#pragma unroll
      for (int i = 0; i < static_cast<int>(kPiece); ++i) to[piece * kPiece + i] = sum[g][i];
      if (piece == 0) to[dim] = total[g];
    }
  }
  __syncthreads();
  float* const out =
      partials + ((static_cast<size_t>(row) * shape.heads + kv_head * Group) * splits + split) * (dim + 2);
  const size_t head_stride = static_cast<size_t>(splits) * (dim + 2);
  for (uint32_t i = thread; i < Group * (dim + 1); i += kAttendThreads) {
    const uint32_t g = i / (dim + 1), d = i % (dim + 1);
    float s = 0;
    for (uint32_t k = 0; k < parts; ++k) s += sums[(k * Group + g) * (dim + 2) + d];
    out[g * head_stride + d] = s;
    if (d == dim) out[g * head_stride + dim + 1] = most[g];
  }
}

__global__ void join_attention_kernel(const StepRows rows, const AttentionShape shape, uint32_t dim,
                                      uint32_t splits, const float* partials, __nv_bfloat16* out,
                                      uint32_t stride) {
  let_next_start();
  wait_for_inputs();
  const uint32_t head = blockIdx.x, row = blockIdx.y;
  const int32_t position = rows.positions[row];
  __nv_bfloat16* to = out + static_cast<size_t>(row) * stride + head * dim;
  if (position < 0) {
    for (uint32_t d = threadIdx.x; d < dim; d += blockDim.x) to[d] = __float2bfloat16(0.0f);
    return;
  }
  const uint32_t context = static_cast<uint32_t>(position) + 1;
  const uint32_t oldest =
      shape.sliding_window && context > shape.sliding_window ? context - shape.sliding_window : 0;
  const uint32_t first = oldest / shape.split_positions, last = (context - 1) / shape.split_positions;
  const float* from = partials + (static_cast<size_t>(row) * shape.heads + head) * splits * (dim + 2);
  float most = -INFINITY, total = 0;
  for (uint32_t s = first; s <= last; ++s) most = fmaxf(most, from[s * (dim + 2) + dim + 1]);
  for (uint32_t s = first; s <= last; ++s)
    total = fmaf(from[s * (dim + 2) + dim], __expf(from[s * (dim + 2) + dim + 1] - most), total);
  for (uint32_t d = threadIdx.x; d < dim; d += blockDim.x) {
    float sum = 0;
    for (uint32_t s = first; s <= last; ++s)
      sum = fmaf(from[s * (dim + 2) + d], __expf(from[s * (dim + 2) + dim + 1] - most), sum);
    to[d] = __float2bfloat16(sum / total);
  }
}

template <class T>
cudaError_t attend_as(const StepRows& rows, uint32_t count, const AttentionShape& shape, const float* q,
                      const KvPages& kv, uint32_t splits, float* partials, bool dependent,
                      cudaStream_t stream) {
  const uint32_t group = shape.heads / kv.kv_heads, parts = kAttendThreads / (kv.head_dim / kPiece);
  const uint32_t shared = 4 * (group * (kv.head_dim + shape.split_positions + parts * (kv.head_dim + 2)) +
                               shape.split_positions / kBlockTokens + 1);
  const dim3 grid(kv.kv_heads, count, splits);
#define FILIGREE_ATTEND(GROUP)                                                                              \
  case GROUP:                                                                                               \
    return launch(attend_kernel<T, GROUP>, grid, kAttendThreads, shared, dependent, stream, rows, shape, q, \
                  kv, splits, partials);
  switch (group) {
    FILIGREE_ATTEND(1)
    FILIGREE_ATTEND(2)
    FILIGREE_ATTEND(3)
    FILIGREE_ATTEND(4)
    FILIGREE_ATTEND(5)
    FILIGREE_ATTEND(6)
    FILIGREE_ATTEND(7)
    FILIGREE_ATTEND(8)
    default:
      return cudaErrorInvalidConfiguration;
  }
#undef FILIGREE_ATTEND
}

}  // namespace

cudaError_t attend(const StepRows& rows, uint32_t count, const AttentionShape& shape, const float* q,
                   const KvPages& kv, uint32_t splits, float* partials, void* out, uint32_t stride,
                   bool dependent, cudaStream_t stream) {
  const cudaError_t error =
      kv.element == KvElement::f16
          ? attend_as<__half>(rows, count, shape, q, kv, splits, partials, dependent, stream)
          : attend_as<__nv_bfloat16>(rows, count, shape, q, kv, splits, partials, dependent, stream);
  if (error != cudaSuccess) return error;
  return launch(join_attention_kernel, dim3(shape.heads, count), 64, 0, dependent, stream, rows, shape,
                kv.head_dim, splits, partials, static_cast<__nv_bfloat16*>(out), stride);
}

}  // namespace filigree::cuda
