#include "cuda/layers.h"
#include "cuda/store.cuh"

namespace filigree::cuda {
namespace {

constexpr uint32_t kThreads = 256;

__global__ void embed_kernel(const StepRows rows, const __nv_bfloat16* table, uint32_t hidden, float* h) {
  let_next_start();
  wait_for_inputs();
  const uint32_t row = blockIdx.x;
  const bool padding = rows.positions[row] < 0;
  const __nv_bfloat16* from = table + static_cast<size_t>(padding ? 0 : rows.tokens[row]) * hidden;
  for (uint32_t i = threadIdx.x; i < hidden; i += blockDim.x)
    h[static_cast<size_t>(row) * hidden + i] = padding ? 0.0f : __bfloat162float(from[i]);
}

constexpr uint32_t kNormThreads = 512;

__global__ void __launch_bounds__(kNormThreads)
    rms_norm_kernel(const float* h, const int32_t* from, const float* weight, float eps, uint32_t hidden,
                    __nv_bfloat16* out, uint32_t stride, float* f32_out) {
  __shared__ float sums[kNormThreads / 32];
  let_next_start();
  wait_for_inputs();
  const uint32_t row = blockIdx.x, fours = hidden / 4;
  const float4* x = reinterpret_cast<const float4*>(
      h + static_cast<size_t>(from ? from[row] : static_cast<int32_t>(row)) * hidden);
  const float4* w = reinterpret_cast<const float4*>(weight);
  float sum = 0;
  for (uint32_t i = threadIdx.x; i < fours; i += kNormThreads) {
    const float4 v = x[i];
    sum = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, sum))));
  }
#pragma unroll
  for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < kNormThreads / 32; ++i) sum += sums[i];
  const float scale = rsqrtf(sum / static_cast<float>(hidden) + eps);
  for (uint32_t i = threadIdx.x; i < fours; i += kNormThreads) {
    const float4 v = x[i], g = w[i];
    const float4 y = {v.x * scale * g.x, v.y * scale * g.y, v.z * scale * g.z, v.w * scale * g.w};
    __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(y.x, y.y), __floats2bfloat162_rn(y.z, y.w)};
    *reinterpret_cast<uint2*>(out + static_cast<size_t>(row) * stride + i * 4) =
        *reinterpret_cast<uint2*>(pairs);
    if (f32_out) reinterpret_cast<float4*>(f32_out + static_cast<size_t>(row) * hidden)[i] = y;
  }
}

FILIGREE_DEVICE void put(__half* to, float v) { *to = __float2half(v); }
FILIGREE_DEVICE void put(__nv_bfloat16* to, float v) { *to = __float2bfloat16(v); }
FILIGREE_DEVICE float2 widen(uint32_t bits, const __half*) {
  return __half22float2(*reinterpret_cast<const __half2*>(&bits));
}
FILIGREE_DEVICE float2 widen(uint32_t bits, const __nv_bfloat16*) {
  return make_float2(low_bf16(bits), high_bf16(bits));
}

// Place of a position's row of one head in the cache, in elements.
FILIGREE_DEVICE size_t page_row(const KvPages& kv, const StepRows& rows, uint32_t table, uint32_t position,
                                uint32_t head) {
  const int32_t block =
      rows.block_tables[static_cast<size_t>(table) * rows.table_stride + position / kBlockTokens];
  return ((static_cast<size_t>(block) * kv.kv_heads + head) * kBlockTokens + position % kBlockTokens) *
         kv.head_dim;
}

template <class T>
__global__ void rotate_kernel(const StepRows rows, const float* qkv, uint32_t qkv_stride, uint32_t heads,
                              const float* inv_freq, float attention_scale, const KvPages kv, float* q) {
  let_next_start();
  wait_for_inputs();
  const uint32_t row = blockIdx.x, half = kv.head_dim / 2;
  const int32_t position = rows.positions[row];
  if (position < 0) return;
  const float* from = qkv + static_cast<size_t>(row) * qkv_stride;
  T* const keys = static_cast<T*>(kv.keys);
  T* const values = static_cast<T*>(kv.values);
  for (uint32_t i = threadIdx.x; i < (heads + 2 * kv.kv_heads) * half; i += blockDim.x) {
    const uint32_t head = i / half, d = i % half;
    const float a = from[head * kv.head_dim + d], b = from[head * kv.head_dim + half + d];
    if (head >= heads + kv.kv_heads) {
      const size_t at = page_row(kv, rows, rows.tables[row], position, head - heads - kv.kv_heads) + d;
      put(values + at, a), put(values + at + half, b);
      continue;
    }
    float sine, cosine;
    sincosf(static_cast<float>(position) * inv_freq[d], &sine, &cosine);
    sine *= attention_scale, cosine *= attention_scale;
    const float x = a * cosine - b * sine, y = b * cosine + a * sine;
    if (head < heads) {
      float* to = q + (static_cast<size_t>(row) * heads + head) * kv.head_dim + d;
      to[0] = x, to[half] = y;
    } else {
      const size_t at = page_row(kv, rows, rows.tables[row], position, head - heads) + d;
      put(keys + at, x), put(keys + at + half, y);
    }
  }
}

__global__ void swiglu_kernel(const __nv_bfloat16* gate_up, uint32_t gate_up_stride, bool interleaved,
                              uint32_t columns, __nv_bfloat16* out, uint32_t stride) {
  let_next_start();
  wait_for_inputs();
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
  if (i >= columns) return;
  const __nv_bfloat16* from = gate_up + static_cast<size_t>(row) * gate_up_stride;
  const uint32_t gate = interleaved ? i / 16 * 32 + i % 16 : i, up = interleaved ? gate + 16 : columns + i;
  out[static_cast<size_t>(row) * stride + i] =
      __float2bfloat16(silu(__bfloat162float(from[gate])) * __bfloat162float(from[up]));
}

__global__ void add_bias_kernel(float* x, uint32_t stride, const float* bias, uint32_t columns) {
  let_next_start();
  wait_for_inputs();
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < columns) x[static_cast<size_t>(blockIdx.y) * stride + i] += bias[i];
}

__global__ void copy_block_kernel(uint4* keys, uint4* values, size_t layer, size_t block, int32_t from,
                                  int32_t to) {
  const size_t l = blockIdx.x * layer;
  for (size_t i = threadIdx.x; i < block; i += blockDim.x) {
    keys[l + to * block + i] = keys[l + from * block + i];
    values[l + to * block + i] = values[l + from * block + i];
  }
}

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

cudaError_t embed(const StepRows& rows, uint32_t count, const void* table, uint32_t hidden, float* h,
                  bool dependent, cudaStream_t stream) {
  return launch(embed_kernel, dim3(count), kThreads, 0, dependent, stream, rows,
                static_cast<const __nv_bfloat16*>(table), hidden, h);
}

cudaError_t rms_norm(const float* h, const int32_t* from, uint32_t count, const float* weight, float eps,
                     uint32_t hidden, void* out, uint32_t stride, float* f32_out, bool dependent,
                     cudaStream_t stream) {
  return launch(rms_norm_kernel, dim3(count), kNormThreads, 0, dependent, stream, h, from, weight, eps,
                hidden, static_cast<__nv_bfloat16*>(out), stride, f32_out);
}

cudaError_t rotate_and_store(const StepRows& rows, uint32_t count, const float* qkv, uint32_t qkv_stride,
                             uint32_t heads, const float* inv_freq, float attention_scale, const KvPages& kv,
                             float* q, bool dependent, cudaStream_t stream) {
  const auto kernel = kv.element == KvElement::f16 ? rotate_kernel<__half> : rotate_kernel<__nv_bfloat16>;
  return launch(kernel, dim3(count), 512, 0, dependent, stream, rows, qkv, qkv_stride, heads, inv_freq,
                attention_scale, kv, q);
}

cudaError_t swiglu(const void* gate_up, uint32_t gate_up_stride, bool interleaved, uint32_t columns,
                   uint32_t count, void* out, uint32_t stride, bool dependent, cudaStream_t stream) {
  return launch(swiglu_kernel, dim3((columns + kThreads - 1) / kThreads, count), kThreads, 0, dependent,
                stream, static_cast<const __nv_bfloat16*>(gate_up), gate_up_stride, interleaved, columns,
                static_cast<__nv_bfloat16*>(out), stride);
}

cudaError_t add_bias(float* x, uint32_t stride, const float* bias, uint32_t columns, uint32_t count,
                     bool dependent, cudaStream_t stream) {
  return launch(add_bias_kernel, dim3((columns + kThreads - 1) / kThreads, count), kThreads, 0, dependent,
                stream, x, stride, bias, columns);
}

cudaError_t copy_block(const KvPages& first_layer, size_t layer_bytes, uint32_t layers, int32_t from,
                       int32_t to, cudaStream_t stream) {
  if (from == to) return cudaSuccess;
  const size_t block = size_t{kBlockTokens} * first_layer.kv_heads * first_layer.head_dim * 2 / sizeof(uint4);
  copy_block_kernel<<<layers, kThreads, 0, stream>>>(static_cast<uint4*>(first_layer.keys),
                                                     static_cast<uint4*>(first_layer.values),
                                                     layer_bytes / sizeof(uint4), block, from, to);
  return cudaGetLastError();
}

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
