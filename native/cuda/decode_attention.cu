#include "cuda/layers.h"
#include "cuda/pages.cuh"
#include "cuda/store.cuh"

namespace filigree::cuda {
namespace {

constexpr uint32_t kAttendThreads = 128;

FILIGREE_DEVICE void copy_piece(void* to, const void* from, uint4) { copy_async16(shared_address(to), from); }
FILIGREE_DEVICE void copy_piece(void* to, const void* from, uint2) { copy_async8(shared_address(to), from); }
// Eight elements into shared memory.
template <class T>
FILIGREE_DEVICE void copy_piece(T* to, const T* from) {
  copy_piece(to, from, typename KvTraits<T>::Piece{});
}

template <class T, int Group>
struct DecodeShared {
  uint32_t keys, values, query, scores, turns, scales, sums, weights, bytes;
  // Places in shared memory, in bytes. dim is a multiple of 8.
  FILIGREE_HD explicit DecodeShared(uint32_t dim) {
    const uint32_t parts = kAttendThreads / (dim / kPiece);
    keys = 0;
    values = keys + kDecodeSplit * dim * static_cast<uint32_t>(sizeof(T));
    query = values + kDecodeSplit * dim * static_cast<uint32_t>(sizeof(T));
    scores = query + Group * dim * 4;
    turns = scores + Group * kDecodeSplit * 4;
    scales = turns + dim * 4;
    weights = scales + (KvTraits<T>::scaled ? 2 * kDecodeSplit * 4 : 0);
    // The parts' sums come when the keys have been read: their place, where it holds them, lets one more block run beside others.
    const uint32_t end = weights + Group * kMostDecodeSplits * 4, need = parts * Group * (dim + 2) * 4;
    const bool over_keys = need <= values;
    sums = over_keys ? keys : end;
    bytes = over_keys ? end : end + need;
  }
};

// Rotates, stores and attends in one launch. A block has one split of one row's context, for the Group query heads that share a
// key head; what the cache held before this step is fetched while the projection still runs. The last block of a row and key head
// to finish joins the splits, in their order.
template <class T, int Group>
__global__ void __launch_bounds__(kAttendThreads)
    decode_attend_kernel(const StepRows rows, const AttentionShape shape, const DecodeInput in,
                         const KvPages kv, uint32_t splits, float* partials, uint32_t* arrivals,
                         __nv_bfloat16* out, uint32_t stride) {
  extern __shared__ __align__(16) uint8_t bytes[];
  __shared__ bool joins;
  constexpr const T* kType = nullptr;
  const uint32_t kv_head = blockIdx.x, row = blockIdx.y, split = blockIdx.z, dim = kv.head_dim,
                 half = dim / 2;
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const uint32_t pieces = dim / kPiece, parts = kAttendThreads / pieces;
  const uint32_t piece = thread % pieces, part = thread / pieces;
  const DecodeShared<T, Group> place(dim);
  using Piece = typename KvTraits<T>::Piece;
  T* const keys = reinterpret_cast<T*>(bytes + place.keys);              // [kDecodeSplit][dim]
  T* const values = reinterpret_cast<T*>(bytes + place.values);          // [kDecodeSplit][dim]
  float* const query = reinterpret_cast<float*>(bytes + place.query);    // [Group][dim]
  float* const scores = reinterpret_cast<float*>(bytes + place.scores);  // [Group][kDecodeSplit]
  float2* const turns = reinterpret_cast<float2*>(bytes + place.turns);  // [half] cosine, sine
  float* const scales = reinterpret_cast<float*>(bytes + place.scales);  // [keys, values][kDecodeSplit]
  float* const sums = reinterpret_cast<float*>(bytes + place.sums);      // [parts][Group][dim + 2]
  float* const weights =
      reinterpret_cast<float*>(bytes + place.weights);  // [warps][Group], then [Group][splits]
  let_next_start();

  // Rows and tables were copied before the step's first kernel, and the cache's earlier rows in earlier steps.
  const int32_t position = rows.positions[row], table_of_row = rows.tables[row];
  const uint32_t context = position < 0 ? 0 : static_cast<uint32_t>(position) + 1;
  const uint32_t oldest =
      shape.sliding_window && context > shape.sliding_window ? context - shape.sliding_window : 0;
  const uint32_t begin = max(split * kDecodeSplit, oldest), end = min((split + 1) * kDecodeSplit, context);
  const bool live = begin < end, newest = live && end == context;
  if (live) {
    // The split's blocks at once, then pieces in turn: a thread keeps its piece of every parts-th position.
    constexpr uint32_t kBlocks = kDecodeSplit / kBlockTokens;
    const uint32_t first_block = split * kBlocks, stored = newest ? end - 1 : end;
    const int32_t* const table =
        rows.block_tables + static_cast<size_t>(table_of_row) * rows.table_stride + first_block;
    int32_t blocks[kBlocks];
#pragma unroll
    for (uint32_t b = 0; b < kBlocks; ++b) blocks[b] = (first_block + b) * kBlockTokens < end ? table[b] : 0;
    const auto block_at = [&](uint32_t p) {
      const uint32_t b = p / kBlockTokens - first_block;
      int32_t block = blocks[0];
#pragma unroll
      for (uint32_t k = 1; k < kBlocks; ++k) block = b == k ? blocks[k] : block;
      return static_cast<uint32_t>(block);
    };
    if (part < parts) {
#pragma unroll 4
      for (uint32_t p = begin + part; p < stored; p += parts) {
        const uint32_t block = block_at(p), to = (p - begin) * dim + piece * kPiece;
        copy_piece(keys + to, row_of<T>(kv.keys, kv, block, kv_head, p).elements + piece * kPiece);
        copy_piece(values + to, row_of<T>(kv.values, kv, block, kv_head, p).elements + piece * kPiece);
      }
    }
    copy_async_commit();
    if constexpr (KvTraits<T>::scaled) {
      static_assert(kAttendThreads == 2 * kDecodeSplit);
      const uint32_t p = begin + thread % kDecodeSplit;
      void* const from = thread < kDecodeSplit ? kv.keys : kv.values;
      if (p < stored) scales[thread] = __ldcg(row_of<T>(from, kv, block_at(p), kv_head, p).scale);
    }
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
    for (uint32_t i = thread; i < Group * dim; i += kAttendThreads)
      out[static_cast<size_t>(row) * stride + kv_head * Group * dim + i] = __float2bfloat16(0.0f);
    return;
  }
  __syncthreads();
  const float* const from = in.qkv + static_cast<size_t>(row) * in.stride;
  for (uint32_t i = thread; i < Group * half; i += kAttendThreads) {
    const uint32_t g = i / half, d = i % half;
    const float* const head = from + (kv_head * Group + g) * dim;
    const float2 turned = rotated(head[d], head[half + d], turns[d].x, turns[d].y);
    query[g * dim + d] = turned.x * shape.scale, query[g * dim + half + d] = turned.y * shape.scale;
  }
  if (newest && warp < 2) {  // one the key, one the value
    const uint32_t slot = end - 1 - begin;
    const float* const head = from + (shape.heads + kv_head + (warp == 0 ? 0 : kv.kv_heads)) * dim;
    const HeadPairs pairs(lane, half, [&](uint32_t d) {
      const float a = head[d], b = head[half + d];
      return warp == 0 ? rotated(a, b, turns[d].x, turns[d].y) : make_float2(a, b);
    });
    const float scale = pairs.template scale<T>();
    const uint32_t at = static_cast<uint32_t>(position), block = block_of(rows, table_of_row, at);
    pairs.store(row_of<T>(warp == 0 ? kv.keys : kv.values, kv, block, kv_head, at), scale, lane, half);
    pairs.store(KvRow<T>{(warp == 0 ? keys : values) + slot * dim, scales + warp * kDecodeSplit + slot},
                scale, lane, half);
  }
  copy_async_wait<0>();
  __syncthreads();

  // Scores: eight lanes take a key.
  const uint32_t count = end - begin, eighth = lane % 8;
  float most[Group];
#pragma unroll
  for (int g = 0; g < Group; ++g) most[g] = -INFINITY;
  for (uint32_t p0 = warp * 4; p0 < count; p0 += kAttendThreads / 8) {
    const uint32_t p = p0 + lane / 8;
    float dot[Group] = {};
    if (p < count) {
      for (uint32_t q = eighth; q < pieces; q += 8) {
        const Piece key = *reinterpret_cast<const Piece*>(keys + p * dim + q * kPiece);
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          const float2 k = widen(key, i, kType);
#pragma unroll
          for (int g = 0; g < Group; ++g) {
            const float2 part = *reinterpret_cast<const float2*>(query + g * dim + q * kPiece + 2 * i);
            dot[g] = fmaf(k.y, part.y, fmaf(k.x, part.x, dot[g]));
          }
        }
      }
    }
#pragma unroll
    for (int g = 0; g < Group; ++g) {
#pragma unroll
      for (int o = 4; o; o >>= 1) dot[g] += __shfl_xor_sync(~0u, dot[g], o);
      if (p < count) {
        if constexpr (KvTraits<T>::scaled) dot[g] *= scales[p];
        most[g] = fmaxf(most[g], dot[g]);
        if (eighth == 0) scores[g * kDecodeSplit + p] = dot[g];
      }
    }
  }
#pragma unroll
  for (int g = 0; g < Group; ++g) {
#pragma unroll
    for (int o = 16; o; o >>= 1) most[g] = fmaxf(most[g], __shfl_xor_sync(~0u, most[g], o));
    if (lane == 0) weights[warp * Group + g] = most[g];
  }
  __syncthreads();
#pragma unroll
  for (int g = 0; g < Group; ++g) {
    most[g] = -INFINITY;
    for (uint32_t w = 0; w < kAttendThreads / 32; ++w) most[g] = fmaxf(most[g], weights[w * Group + g]);
    for (uint32_t p = thread; p < count; p += kAttendThreads)
      scores[g * kDecodeSplit + p] = __expf(scores[g * kDecodeSplit + p] - most[g]);
  }
  __syncthreads();

  // Values: a thread takes a piece of every parts-th position.
  if (part < parts) {
    float sum[Group][kPiece] = {}, total[Group] = {};
    for (uint32_t p = part; p < count; p += parts) {
      const Piece value = *reinterpret_cast<const Piece*>(values + p * dim + piece * kPiece);
      const float2 v[4] = {widen(value, 0, kType), widen(value, 1, kType), widen(value, 2, kType),
                           widen(value, 3, kType)};
#pragma unroll
      for (int g = 0; g < Group; ++g) {
        float w = scores[g * kDecodeSplit + p];
        total[g] += w;
        if constexpr (KvTraits<T>::scaled) w *= scales[kDecodeSplit + p];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sum[g][2 * i] = fmaf(w, v[i].x, sum[g][2 * i]);
          sum[g][2 * i + 1] = fmaf(w, v[i].y, sum[g][2 * i + 1]);
        }
      }
    }
#pragma unroll
    for (int g = 0; g < Group; ++g) {
      float* const to = sums + (part * Group + g) * (dim + 2);
#pragma unroll
      for (int i = 0; i < static_cast<int>(kPiece); ++i) to[piece * kPiece + i] = sum[g][i];
      if (piece == 0) to[dim] = total[g];
    }
  }
  __syncthreads();
  float* const mine =
      partials + (static_cast<size_t>(row) * shape.heads + kv_head * Group) * splits * (dim + 2);
  const size_t head_stride = static_cast<size_t>(splits) * (dim + 2);
  for (uint32_t i = thread; i < Group * (dim + 1); i += kAttendThreads) {
    const uint32_t g = i / (dim + 1), d = i % (dim + 1);
    float s = 0;
    for (uint32_t k = 0; k < parts; ++k) s += sums[(k * Group + g) * (dim + 2) + d];
    float* const to = mine + g * head_stride + split * (dim + 2);
    __stcg(to + d, s);
    if (d == dim) {
      float of_group = most[0];
#pragma unroll
      for (int k = 1; k < Group; ++k) of_group = g == static_cast<uint32_t>(k) ? most[k] : of_group;
      __stcg(to + dim + 1, of_group);
    }
  }

  // Counters wrap to zero with the last arrival, ready for the next launch.
  const uint32_t first = oldest / kDecodeSplit, last = (context - 1) / kDecodeSplit;
  __threadfence();
  __syncthreads();
  if (thread == 0) joins = atomicInc(arrivals + row * kv.kv_heads + kv_head, last - first) == last - first;
  __syncthreads();
  if (!joins) return;
  __threadfence();
  for (uint32_t g = warp; g < Group; g += kAttendThreads / 32) {
    const float* const head = mine + g * head_stride;
    float top = -INFINITY, total = 0;
    for (uint32_t s = first; s <= last; ++s) top = fmaxf(top, __ldcg(head + s * (dim + 2) + dim + 1));
    for (uint32_t s = first; s <= last; ++s) {
      const float weight = __expf(__ldcg(head + s * (dim + 2) + dim + 1) - top);
      total = fmaf(__ldcg(head + s * (dim + 2) + dim), weight, total);
      if (lane == 0) weights[g * kMostDecodeSplits + s - first] = weight;
    }
    __syncwarp();
    for (uint32_t d = lane; d < dim; d += 32) {
      float sum = 0;
      for (uint32_t s = first; s <= last; ++s)
        sum = fmaf(__ldcg(head + s * (dim + 2) + d), weights[g * kMostDecodeSplits + s - first], sum);
      out[static_cast<size_t>(row) * stride + (kv_head * Group + g) * dim + d] =
          __float2bfloat16(sum / total);
    }
  }
}

template <class T, int Group>
cudaError_t decode_as(const StepRows& rows, uint32_t count, const AttentionShape& shape,
                      const DecodeInput& in, const KvPages& kv, uint32_t splits, float* partials,
                      uint32_t* arrivals, __nv_bfloat16* out, uint32_t stride, bool dependent,
                      cudaStream_t stream) {
  return launch(decode_attend_kernel<T, Group>, dim3(kv.kv_heads, count, splits), kAttendThreads,
                DecodeShared<T, Group>(kv.head_dim).bytes, dependent, stream, rows, shape, in, kv, splits,
                partials, arrivals, out, stride);
}

}  // namespace

uint32_t decode_attention_shared_bytes(uint32_t group, uint32_t head_dim) {
  switch (group) {
#define FILIGREE_SHARED(GROUP) \
  case GROUP:                  \
    return DecodeShared<__half, GROUP>(head_dim).bytes;
    FILIGREE_SHARED(1)
    FILIGREE_SHARED(2)
    FILIGREE_SHARED(3)
    FILIGREE_SHARED(4)
    FILIGREE_SHARED(5)
    FILIGREE_SHARED(6)
    FILIGREE_SHARED(7)
    FILIGREE_SHARED(8)
#undef FILIGREE_SHARED
    default:
      return ~0u;
  }
}

cudaError_t decode_attend(const StepRows& rows, uint32_t count, const AttentionShape& shape,
                          const DecodeInput& in, const KvPages& kv, uint32_t splits, float* partials,
                          uint32_t* arrivals, void* out, uint32_t stride, bool dependent,
                          cudaStream_t stream) {
  if (splits > kMostDecodeSplits) return cudaErrorInvalidValue;
  __nv_bfloat16* const to = static_cast<__nv_bfloat16*>(out);
#define FILIGREE_DECODE(GROUP)                                                                       \
  case GROUP:                                                                                        \
    return with_element(kv.element, [&](auto type) {                                                 \
      return decode_as<Pointee<decltype(type)>, GROUP>(rows, count, shape, in, kv, splits, partials, \
                                                       arrivals, to, stride, dependent, stream);     \
    });
  switch (shape.heads / kv.kv_heads) {
    FILIGREE_DECODE(1)
    FILIGREE_DECODE(2)
    FILIGREE_DECODE(3)
    FILIGREE_DECODE(4)
    FILIGREE_DECODE(5)
    FILIGREE_DECODE(6)
    FILIGREE_DECODE(7)
    FILIGREE_DECODE(8)
    default:
      return cudaErrorInvalidConfiguration;
  }
#undef FILIGREE_DECODE
}

}  // namespace filigree::cuda
