#include "cuda/layers.h"
#include "cuda/pages.cuh"
#include "cuda/store.cuh"

// Attention of a decode step in one launch: rotary embedding, the new row of the cache, scores, softmax and sums. A block has one split of
// one row's context, for up to four query heads that share a key head. Its warps take the cache's blocks of 16 positions in turn, straight
// into registers, the next one's keys while this one's values are added; what the cache held before this step is fetched while the
// projection still runs. Each group of Lanes lanes holds one position's row and its own running maximum and sums, joined at the end. Where
// a row's context has several splits, the last block of a row and key head to finish joins them, in their order.

namespace filigree::cuda {
namespace {

constexpr uint32_t kAttendThreads = 128, kAttendWarps = kAttendThreads / 32;

template <class T, int Heads>
struct DecodeShared {
  uint32_t turns, query, fresh, fresh_scales, sums, weights, bytes;
  // Places in shared memory, in bytes. dim is a multiple of 8.
  FILIGREE_HD explicit DecodeShared(uint32_t dim) {
    turns = 0;                        // [half] cosine, sine
    query = turns + dim * 4;          // [Heads][dim]
    fresh = query + Heads * dim * 4;  // the new key, the new value: [dim] each
    fresh_scales = fresh + 2 * dim * static_cast<uint32_t>(sizeof(T));
    sums = round_up(fresh_scales + 8, 16u);                 // [warps][Heads][dim + 2]: sums, total, maximum
    weights = sums + kAttendWarps * Heads * (dim + 2) * 4;  // [Heads][splits]
    bytes = weights + Heads * kMostDecodeSplits * 4;
  }
};

FILIGREE_DEVICE uint4 load_piece(const uint4* from) { return __ldcg(from); }
FILIGREE_DEVICE uint2 load_piece(const uint2* from) { return __ldcg(from); }

// What a group of lanes has added of its positions, each lane for its piece of the head.
template <int Heads>
struct Softmax {
  float most[Heads], total[Heads], sum[Heads][kPiece];

  FILIGREE_DEVICE Softmax() {
#pragma unroll
    for (int g = 0; g < Heads; ++g) {
      most[g] = -INFINITY, total[g] = 0;
#pragma unroll
      for (uint32_t i = 0; i < kPiece; ++i) sum[g][i] = 0;
    }
  }
  FILIGREE_DEVICE void raise(int g, float to) {
    if (!(to > most[g])) return;
    const float factor = __expf(most[g] - to);
    most[g] = to, total[g] *= factor;
#pragma unroll
    for (uint32_t i = 0; i < kPiece; ++i) sum[g][i] *= factor;
  }
  template <class Piece, class T>
  FILIGREE_DEVICE void add(int g, float weight, float scale, const Piece& value, const T* type) {
    total[g] += weight;
    weight *= scale;
#pragma unroll
    for (uint32_t i = 0; i < kPiece / 2; ++i) {
      const float2 v = widen(value, i, type);
      sum[g][2 * i] = fmaf(weight, v.x, sum[g][2 * i]);
      sum[g][2 * i + 1] = fmaf(weight, v.y, sum[g][2 * i + 1]);
    }
  }
};

template <class Piece, class T>
FILIGREE_DEVICE float dot(const Piece& key, const float (&query)[kPiece], const T* type) {
  float s = 0;
#pragma unroll
  for (uint32_t i = 0; i < kPiece / 2; ++i) {
    const float2 k = widen(key, i, type);
    s = fmaf(k.y, query[2 * i + 1], fmaf(k.x, query[2 * i], s));
  }
  return s;
}

template <class T, int Heads, int Lanes>
__global__ void __launch_bounds__(kAttendThreads)
    decode_attend_kernel(const StepRows rows, const AttentionShape shape, const DecodeInput in,
                         const KvPages kv, const uint32_t splits, float* partials, uint32_t* arrivals,
                         __nv_bfloat16* out, const uint32_t stride) {
  extern __shared__ __align__(16) uint8_t bytes[];
  __shared__ bool joins;
  constexpr const T* kType = nullptr;
  constexpr uint32_t kRows = 32 / Lanes, kLoads = kBlockTokens / kRows;  // positions a load, loads a block
  const uint32_t group = shape.heads / kv.kv_heads, blocks_of_group = ceil_div(group, uint32_t{Heads});
  const uint32_t kv_head = blockIdx.x / blocks_of_group, first_head = blockIdx.x % blocks_of_group * Heads;
  const uint32_t query_head = kv_head * group + first_head, heads = min(uint32_t{Heads}, group - first_head);
  const uint32_t row = blockIdx.y, split = blockIdx.z, dim = kv.head_dim, half = dim / 2;
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const uint32_t piece = lane % Lanes, my_row = lane / Lanes;
  const bool has_piece = piece * kPiece < dim;
  const DecodeShared<T, Heads> place(dim);
  using Piece = typename KvTraits<T>::Piece;
  float2* const turns = reinterpret_cast<float2*>(bytes + place.turns);
  float* const query = reinterpret_cast<float*>(bytes + place.query);
  T* const fresh = reinterpret_cast<T*>(bytes + place.fresh);
  float* const fresh_scales = reinterpret_cast<float*>(bytes + place.fresh_scales);
  float* const sums = reinterpret_cast<float*>(bytes + place.sums);
  float* const weights = reinterpret_cast<float*>(bytes + place.weights);
  let_next_start();

  // Rows and tables were copied before the step's first kernel, and the cache's earlier rows in earlier steps.
  const int32_t position = rows.positions[row], table_of_row = rows.tables[row];
  const uint32_t context = position < 0 ? 0 : static_cast<uint32_t>(position) + 1;
  const uint32_t oldest =
      shape.sliding_window && context > shape.sliding_window ? context - shape.sliding_window : 0;
  const uint32_t begin = max(split * in.split_positions, oldest),
                 end = min((split + 1) * in.split_positions, context);
  const bool live = begin < end, newest = live && end == context;
  const uint32_t stored = newest ? end - 1 : end;
  const int32_t* const table = rows.block_tables + static_cast<size_t>(table_of_row) * rows.table_stride;
  uint32_t block = begin / kBlockTokens + warp;  // of the context
  const uint32_t blocks_end = live && stored > begin ? (stored - 1) / kBlockTokens + 1 : 0;

  Piece keys[kLoads], values[kLoads];
  float key_scale = 0, value_scale = 0;  // lane p's: of position p of the block
  const auto fetch = [&](void* pages, uint32_t of, int32_t page, Piece(&to)[kLoads], float& scale) {
    const KvRow<T> first = row_of<T>(pages, kv, static_cast<uint32_t>(page), kv_head, 0);
    const Piece* const from = reinterpret_cast<const Piece*>(first.elements + my_row * dim + piece * kPiece);
    const uint32_t step = kRows * dim / kPiece;
#pragma unroll
    for (uint32_t j = 0; j < kLoads; ++j) {
      const uint32_t p = of * kBlockTokens + j * kRows + my_row;
      to[j] = has_piece && p >= begin && p < stored ? load_piece(from + j * step) : Piece{};
    }
    if constexpr (KvTraits<T>::scaled) {
      const uint32_t p = of * kBlockTokens + lane % kBlockTokens;
      scale = p >= begin && p < stored ? __ldcg(first.scale + lane % kBlockTokens) : 0.0f;
    }
  };
  int32_t next_page = 0;
  if (block < blocks_end) {
    const int32_t page = table[block];
    if (block + kAttendWarps < blocks_end) next_page = table[block + kAttendWarps];
    fetch(kv.keys, block, page, keys, key_scale);
    fetch(kv.values, block, page, values, value_scale);
  }
  if (live) {
    for (uint32_t d = thread; d < half; d += kAttendThreads) {
      float sine, cosine;
      sincosf(static_cast<float>(position) * in.inv_freq[d], &sine, &cosine);
      turns[d] = make_float2(cosine * in.attention_scale, sine * in.attention_scale);
    }
  }
  // A split beyond the context has nothing to wait for; the blocks that do hold back the kernel after this one.
  if (!live && (position >= 0 || split > 0)) return;
  wait_for_inputs();
  if (!live) {
    for (uint32_t i = thread; i < heads * dim; i += kAttendThreads)
      out[static_cast<size_t>(row) * stride + query_head * dim + i] = __float2bfloat16(0.0f);
    return;
  }
  __syncthreads();
  const float* const from = in.qkv + static_cast<size_t>(row) * in.stride;
  for (uint32_t i = thread; i < heads * half; i += kAttendThreads) {
    const uint32_t g = i / half, d = i % half;
    const float* const head = from + (query_head + g) * dim;
    const float2 turned = rotated(head[d], head[half + d], turns[d].x, turns[d].y);
    query[g * dim + d] = turned.x * shape.scale, query[g * dim + half + d] = turned.y * shape.scale;
  }
  if (newest && warp < 2) {  // one the key, one the value
    const float* const head = from + (shape.heads + kv_head + (warp == 0 ? 0 : kv.kv_heads)) * dim;
    const HeadPairs pairs(lane, half, [&](uint32_t d) {
      const float a = head[d], b = head[half + d];
      return warp == 0 ? rotated(a, b, turns[d].x, turns[d].y) : make_float2(a, b);
    });
    const float scale = pairs.template scale<T>();
    const uint32_t at = static_cast<uint32_t>(position), page = block_of(rows, table_of_row, at);
    if (first_head == 0)
      pairs.store(row_of<T>(warp == 0 ? kv.keys : kv.values, kv, page, kv_head, at), scale, lane, half);
    pairs.store(KvRow<T>{fresh + warp * dim, fresh_scales + warp}, scale, lane, half);
  }
  __syncthreads();
  float q[Heads][kPiece];
#pragma unroll
  for (int g = 0; g < Heads; ++g) {
#pragma unroll
    for (uint32_t i = 0; i < kPiece; ++i)
      q[g][i] = has_piece && static_cast<uint32_t>(g) < heads ? query[g * dim + piece * kPiece + i] : 0.0f;
  }
  const auto over_lanes = [](float s) {
#pragma unroll
    for (int o = Lanes / 2; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
    return s;
  };

  Softmax<Heads> mine;
  for (; block < blocks_end; block += kAttendWarps) {
    float scores[Heads][kLoads], scale_of_key[kLoads], scale_of_value[kLoads];
#pragma unroll
    for (uint32_t j = 0; j < kLoads; ++j) {
      scale_of_key[j] = scale_of_value[j] = 1;
      if constexpr (KvTraits<T>::scaled) {
        scale_of_key[j] = __shfl_sync(~0u, key_scale, static_cast<int>(j * kRows + my_row));
        scale_of_value[j] = __shfl_sync(~0u, value_scale, static_cast<int>(j * kRows + my_row));
      }
    }
#pragma unroll
    for (int g = 0; g < Heads; ++g) {
#pragma unroll
      for (uint32_t j = 0; j < kLoads; ++j) {
        const uint32_t p = block * kBlockTokens + j * kRows + my_row;
        const float s = over_lanes(dot(keys[j], q[g], kType));
        scores[g][j] = p >= begin && p < stored ? s * scale_of_key[j] : -INFINITY;
      }
    }
    const uint32_t next = block + kAttendWarps;
    const int32_t page = next_page;
    if (next < blocks_end) {
      if (next + kAttendWarps < blocks_end) next_page = table[next + kAttendWarps];
      fetch(kv.keys, next, page, keys, key_scale);
    }
#pragma unroll
    for (int g = 0; g < Heads; ++g) {
      float most = scores[g][0];
#pragma unroll
      for (uint32_t j = 1; j < kLoads; ++j) most = fmaxf(most, scores[g][j]);
      if (most == -INFINITY) continue;
      mine.raise(g, most);
#pragma unroll
      for (uint32_t j = 0; j < kLoads; ++j)
        mine.add(g, __expf(scores[g][j] - mine.most[g]), scale_of_value[j], values[j], kType);
    }
    if (next < blocks_end) fetch(kv.values, next, page, values, value_scale);
  }
  if (newest && warp == kAttendWarps - 1) {
    Piece key = {}, value = {};
    if (has_piece) {
      key = *reinterpret_cast<const Piece*>(fresh + piece * kPiece);
      value = *reinterpret_cast<const Piece*>(fresh + dim + piece * kPiece);
    }
    const float of_key = KvTraits<T>::scaled ? fresh_scales[0] : 1.0f,
                of_value = KvTraits<T>::scaled ? fresh_scales[1] : 1.0f;
#pragma unroll
    for (int g = 0; g < Heads; ++g) {
      const float s = over_lanes(dot(key, q[g], kType)) * of_key;
      if (my_row != 0) continue;
      mine.raise(g, s);
      mine.add(g, __expf(s - mine.most[g]), of_value, value, kType);
    }
  }

  // The groups of a warp, then the warps.
#pragma unroll
  for (int g = 0; g < Heads; ++g) {
    float most = mine.most[g];
#pragma unroll
    for (int o = Lanes; o < 32; o <<= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
    const float factor = mine.most[g] == -INFINITY ? 0.0f : __expf(mine.most[g] - most);
    float* const to = sums + (warp * Heads + g) * (dim + 2);
    const auto over_groups = [&](float s) {
      s *= factor;
#pragma unroll
      for (int o = Lanes; o < 32; o <<= 1) s += __shfl_xor_sync(~0u, s, o);
      return s;
    };
    const float total = over_groups(mine.total[g]);
#pragma unroll
    for (uint32_t i = 0; i < kPiece; ++i) {
      const float s = over_groups(mine.sum[g][i]);
      if (my_row == 0 && has_piece) to[piece * kPiece + i] = s;
    }
    if (lane == 0) to[dim] = total, to[dim + 1] = most;
  }
  __syncthreads();
  const uint32_t first = oldest / in.split_positions, last = (context - 1) / in.split_positions;
  const bool alone = first == last;
  const size_t head_stride = static_cast<size_t>(splits) * (dim + 2);
  float* const parts = partials + (static_cast<size_t>(row) * shape.heads + query_head) * head_stride;
  __nv_bfloat16* const to = out + static_cast<size_t>(row) * stride + query_head * dim;
  for (uint32_t i = thread; i < heads * dim; i += kAttendThreads) {
    const uint32_t g = i / dim, d = i % dim;
    const auto of = [&](uint32_t w) { return sums + (w * Heads + g) * (dim + 2); };
    float most = of(0)[dim + 1], sum = 0, total = 0;
#pragma unroll
    for (uint32_t w = 1; w < kAttendWarps; ++w) most = fmaxf(most, of(w)[dim + 1]);
#pragma unroll
    for (uint32_t w = 0; w < kAttendWarps; ++w) {
      const float factor = __expf(of(w)[dim + 1] - most);
      sum = fmaf(of(w)[d], factor, sum), total = fmaf(of(w)[dim], factor, total);
    }
    if (alone) {
      to[i] = __float2bfloat16(sum / total);
      continue;
    }
    float* const part = parts + g * head_stride + split * (dim + 2);
    __stcg(part + d, sum);
    if (d == 0) __stcg(part + dim, total), __stcg(part + dim + 1, most);
  }
  if (alone) return;

  // Counters wrap to zero with the last arrival, ready for the next launch.
  __threadfence();
  __syncthreads();
  if (thread == 0) joins = atomicInc(arrivals + row * gridDim.x + blockIdx.x, last - first) == last - first;
  __syncthreads();
  if (!joins) return;
  __threadfence();
  for (uint32_t g = warp; g < heads; g += kAttendWarps) {
    const float* const head = parts + g * head_stride;
    float* const weight = weights + g * kMostDecodeSplits;
    float most = -INFINITY, total = 0;
    for (uint32_t s = first + lane; s <= last; s += 32)
      most = fmaxf(most, __ldcg(head + s * (dim + 2) + dim + 1));
#pragma unroll
    for (int o = 16; o; o >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
    for (uint32_t s = first + lane; s <= last; s += 32) {
      const float w = __expf(__ldcg(head + s * (dim + 2) + dim + 1) - most);
      total = fmaf(__ldcg(head + s * (dim + 2) + dim), w, total);
      weight[s - first] = w;
    }
#pragma unroll
    for (int o = 16; o; o >>= 1) total += __shfl_xor_sync(~0u, total, o);
    __syncwarp();
    for (uint32_t d = lane; d < dim; d += 32) {
      float sum = 0;
#pragma unroll 4
      for (uint32_t s = first; s <= last; ++s)
        sum = fmaf(__ldcg(head + s * (dim + 2) + d), weight[s - first], sum);
      to[g * dim + d] = __float2bfloat16(sum / total);
    }
  }
}

template <class T, int Heads>
cudaError_t decode_as(const StepRows& rows, uint32_t count, const AttentionShape& shape,
                      const DecodeInput& in, const KvPages& kv, uint32_t splits, float* partials,
                      uint32_t* arrivals, __nv_bfloat16* out, uint32_t stride, bool dependent,
                      cudaStream_t stream) {
  const auto run = [&](auto kernel) {
    return launch(kernel,
                  dim3(kv.kv_heads * ceil_div(shape.heads / kv.kv_heads, uint32_t{Heads}), count, splits),
                  kAttendThreads, DecodeShared<T, Heads>(kv.head_dim).bytes, dependent, stream, rows, shape,
                  in, kv, splits, partials, arrivals, out, stride);
  };
  if (kv.head_dim <= 64) return run(decode_attend_kernel<T, Heads, 8>);
  if (kv.head_dim <= 128) return run(decode_attend_kernel<T, Heads, 16>);
  return run(decode_attend_kernel<T, Heads, 32>);
}

}  // namespace

bool decode_attention_fits(uint32_t head_dim) { return head_dim % kPiece == 0 && head_dim <= 32 * kPiece; }

cudaError_t decode_attend(const StepRows& rows, uint32_t count, const AttentionShape& shape,
                          const DecodeInput& in, const KvPages& kv, uint32_t splits, float* partials,
                          uint32_t* arrivals, void* out, uint32_t stride, bool dependent,
                          cudaStream_t stream) {
  if (splits > kMostDecodeSplits || in.split_positions % kBlockTokens != 0 || in.split_positions == 0 ||
      !decode_attention_fits(kv.head_dim))
    return cudaErrorInvalidValue;
  __nv_bfloat16* const to = static_cast<__nv_bfloat16*>(out);
  // Blocks of up to four heads, as equal as can be.
  const uint32_t group = shape.heads / kv.kv_heads, heads = ceil_div(group, ceil_div(group, 4u));
  return with_element(kv.element, [&](auto type) {
    using T = Pointee<decltype(type)>;
    const auto as = [&](auto run) {
      return run(rows, count, shape, in, kv, splits, partials, arrivals, to, stride, dependent, stream);
    };
    return heads == 1   ? as(decode_as<T, 1>)
           : heads == 2 ? as(decode_as<T, 2>)
           : heads == 3 ? as(decode_as<T, 3>)
                        : as(decode_as<T, 4>);
  });
}

}  // namespace filigree::cuda
