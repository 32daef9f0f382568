#include "cuda/layers.h"
#include "cuda/pages.cuh"
#include "cuda/rounding.cuh"
#include "cuda/store.cuh"

namespace filigree::cuda {
namespace {

constexpr uint32_t kThreads = 256;

// Of padding (from null) zeros.
FILIGREE_DEVICE void embed_row(const __nv_bfloat16* from, uint32_t hidden, float* h) {
  for (uint32_t i = threadIdx.x; i < hidden; i += blockDim.x) h[i] = from ? __bfloat162float(from[i]) : 0.0f;
}

__global__ void embed_kernel(const StepRows rows, const __nv_bfloat16* table, uint32_t hidden, float* h) {
  let_next_start();
  wait_for_inputs();
  const uint32_t row = blockIdx.x;
  embed_row(rows.positions[row] < 0 ? nullptr : table + static_cast<size_t>(rows.tokens[row]) * hidden,
            hidden, h + static_cast<size_t>(row) * hidden);
}

__global__ void load_and_embed_kernel(const StepRows host, const WritableStepRows rows,
                                      const __nv_bfloat16* table, uint32_t hidden, float* h) {
  const uint32_t row = blockIdx.x;
  const int32_t token = host.tokens[row], position = host.positions[row], of = host.tables[row];
  if (threadIdx.x == 0) rows.tokens[row] = token, rows.positions[row] = position, rows.tables[row] = of;
  const size_t first = static_cast<size_t>(of) * rows.table_stride;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i * static_cast<int32_t>(kBlockTokens) <= position;
       i += static_cast<int32_t>(blockDim.x))
    rows.block_tables[first + i] = host.block_tables[first + i];
  embed_row(position < 0 ? nullptr : table + static_cast<size_t>(token) * hidden, hidden,
            h + static_cast<size_t>(row) * hidden);
}

constexpr uint32_t kNormThreads = 512;

// 1 / the root mean square of a row, by the whole block.
FILIGREE_DEVICE float norm_scale(const float4* x, uint32_t hidden, float eps) {
  __shared__ float sums[kNormThreads / 32];
  float sum = 0;
  for (uint32_t i = threadIdx.x; i < hidden / 4; i += kNormThreads) {
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
  return rsqrtf(sum / static_cast<float>(hidden) + eps);
}

FILIGREE_DEVICE const float4* row_to_norm(const float* h, const int32_t* from, uint32_t hidden) {
  const uint32_t row = blockIdx.x;
  return reinterpret_cast<const float4*>(
      h + static_cast<size_t>(from ? from[row] : static_cast<int32_t>(row)) * hidden);
}

FILIGREE_DEVICE float4 normed(float4 v, float scale, float4 g) {
  return {v.x * scale * g.x, v.y * scale * g.y, v.z * scale * g.z, v.w * scale * g.w};
}

FILIGREE_DEVICE uint2 as_bf16(float4 y) {
  const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(y.x, y.y), __floats2bfloat162_rn(y.z, y.w)};
  return *reinterpret_cast<const uint2*>(pairs);
}

__global__ void __launch_bounds__(kNormThreads)
    rms_norm_kernel(const float* h, const int32_t* from, const float* weight, float eps, uint32_t hidden,
                    __nv_bfloat16* out, uint32_t stride, float* f32_out) {
  let_next_start();
  wait_for_inputs();
  const size_t row = blockIdx.x;
  const float4 *const x = row_to_norm(h, from, hidden), *const w = reinterpret_cast<const float4*>(weight);
  const float scale = norm_scale(x, hidden, eps);
  for (uint32_t i = threadIdx.x; i < hidden / 4; i += kNormThreads) {
    const float4 y = normed(x[i], scale, w[i]);
    *reinterpret_cast<uint2*>(out + row * stride + i * 4) = as_bf16(y);
    if (f32_out) reinterpret_cast<float4*>(f32_out + row * hidden)[i] = y;
  }
}

template <uint32_t Pieces>
__global__ void __launch_bounds__(kNormThreads)
    rms_norm_rounded_kernel(const float* h, const int32_t* from, const float* weight, float eps,
                            uint32_t hidden, int8_t* codes, uint32_t stride, float* scales) {
  constexpr uint32_t kColumns = Pieces * 256;
  let_next_start();
  wait_for_inputs();
  const size_t row = blockIdx.x;
  const uint32_t lane = threadIdx.x % 32;
  const float4 *const x = row_to_norm(h, from, hidden), *const w = reinterpret_cast<const float4*>(weight);
  const float scale = norm_scale(x, hidden, eps);
  for (uint32_t block = threadIdx.x / 32; block < stride / kColumns; block += kNormThreads / 32) {
    uint4 pieces[Pieces];
#pragma unroll
    for (uint32_t p = 0; p < Pieces; ++p) {
      const uint32_t four = (block * kColumns + p * 256) / 4 + lane * 2;
      const auto at = [&](uint32_t i) {
        return i * 4 < hidden ? as_bf16(normed(x[i], scale, w[i])) : make_uint2(0, 0);
      };
      const uint2 low = at(four), high = at(four + 1);
      pieces[p] = make_uint4(low.x, low.y, high.x, high.y);
    }
    const RoundedBlock<Pieces> rounded = round_block(pieces);
    int8_t* const to = codes + row * stride + block * kColumns + lane * 8;
#pragma unroll
    for (uint32_t p = 0; p < Pieces; ++p) *reinterpret_cast<uint2*>(to + p * 256) = rounded.codes[p];
    if (lane == 0) scales[row * (stride / kColumns) + block] = rounded.scale;
  }
}

// A warp takes a head.
template <class T>
__global__ void rotate_kernel(const StepRows rows, const float* qkv, uint32_t qkv_stride, uint32_t heads,
                              const float* inv_freq, float attention_scale, const KvPages kv, float* q) {
  let_next_start();
  wait_for_inputs();
  const uint32_t row = blockIdx.x, half = kv.head_dim / 2, lane = threadIdx.x % 32;
  const int32_t position = rows.positions[row];
  if (position < 0) return;
  const uint32_t at = static_cast<uint32_t>(position), block = block_of(rows, rows.tables[row], at);
  const float* from = qkv + static_cast<size_t>(row) * qkv_stride;
  for (uint32_t head = threadIdx.x / 32; head < heads + 2 * kv.kv_heads; head += blockDim.x / 32) {
    const float* const of_head = from + head * kv.head_dim;
    const bool value = head >= heads + kv.kv_heads;
    const HeadPairs pairs(lane, half, [&](uint32_t d) {
      const float a = of_head[d], b = of_head[half + d];
      if (value) return make_float2(a, b);
      float sine, cosine;
      sincosf(static_cast<float>(position) * inv_freq[d], &sine, &cosine);
      return rotated(a, b, cosine * attention_scale, sine * attention_scale);
    });
    if (head < heads) {
      float* const to = q + (static_cast<size_t>(row) * heads + head) * kv.head_dim;
      pairs.store(KvRow<float>{to, nullptr}, 1.0f, lane, half);
    } else {
      const KvRow<T> to = value ? row_of<T>(kv.values, kv, block, head - heads - kv.kv_heads, at)
                                : row_of<T>(kv.keys, kv, block, head - heads, at);
      pairs.store(to, pairs.template scale<T>(), lane, half);
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

}  // namespace

cudaError_t embed(const StepRows& rows, uint32_t count, const void* table, uint32_t hidden, float* h,
                  bool dependent, cudaStream_t stream) {
  return launch(embed_kernel, dim3(count), kThreads, 0, dependent, stream, rows,
                static_cast<const __nv_bfloat16*>(table), hidden, h);
}

cudaError_t load_and_embed(const StepRows& host, const WritableStepRows& rows, uint32_t count,
                           const void* table, uint32_t hidden, float* h, cudaStream_t stream) {
  return launch(load_and_embed_kernel, dim3(count), kThreads, 0, false, stream, host, rows,
                static_cast<const __nv_bfloat16*>(table), hidden, h);
}

cudaError_t rms_norm(const float* h, const int32_t* from, uint32_t count, const float* weight, float eps,
                     uint32_t hidden, void* out, uint32_t stride, float* f32_out, bool dependent,
                     cudaStream_t stream) {
  return launch(rms_norm_kernel, dim3(count), kNormThreads, 0, dependent, stream, h, from, weight, eps,
                hidden, static_cast<__nv_bfloat16*>(out), stride, f32_out);
}

cudaError_t rms_norm_rounded(const float* h, const int32_t* from, uint32_t count, const float* weight,
                             float eps, uint32_t hidden, int8_t* codes, uint32_t stride, float* scales,
                             uint32_t block_columns, bool dependent, cudaStream_t stream) {
  if ((block_columns != 256 && block_columns != 512) || stride % block_columns != 0 || stride < hidden)
    return cudaErrorInvalidValue;
  return launch(block_columns == 256 ? rms_norm_rounded_kernel<1> : rms_norm_rounded_kernel<2>, dim3(count),
                kNormThreads, 0, dependent, stream, h, from, weight, eps, hidden, codes, stride, scales);
}

cudaError_t rotate_and_store(const StepRows& rows, uint32_t count, const float* qkv, uint32_t qkv_stride,
                             uint32_t heads, const float* inv_freq, float attention_scale, const KvPages& kv,
                             float* q, bool dependent, cudaStream_t stream) {
  return with_element(kv.element, [&](auto type) {
    return launch(rotate_kernel<Pointee<decltype(type)>>, dim3(count), 512, 0, dependent, stream, rows, qkv,
                  qkv_stride, heads, inv_freq, attention_scale, kv, q);
  });
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
  const size_t block =
      size_t{first_layer.kv_heads} * kv_head_bytes(first_layer.element, first_layer.head_dim) / sizeof(uint4);
  copy_block_kernel<<<layers, kThreads, 0, stream>>>(static_cast<uint4*>(first_layer.keys),
                                                     static_cast<uint4*>(first_layer.values),
                                                     layer_bytes / sizeof(uint4), block, from, to);
  return cudaGetLastError();
}

}  // namespace filigree::cuda
