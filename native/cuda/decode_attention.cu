#include "cuda/attention_tiles.cuh"
#include "cuda/launch.cuh"
#include "cuda/layers.h"

// Attention of a decode step in one launch: rotary embedding, the new row of the cache, scores, softmax and sums, both products on the
// tensor cores. A block has one split of one row's context, for the query heads that share a key head, up to eight of them. Its warps take
// the cache's blocks of 16 positions in turn, straight into registers: the next one's keys while this one's values are added, the next
// one's values after that; what the cache held before this step is fetched while the projection still runs. Where a row's context has
// several splits, the last block of a row and key head to finish joins them, in their order.

namespace filigree::cuda {

// All of a block's shared memory.
extern __shared__ __align__(128) uint8_t shared[];

namespace {

constexpr uint32_t kWarps = 4, kThreads = kWarps * 32;
static_assert(256 / 2 <= kThreads);  // a thread a pair of columns
constexpr float kLog2e = 1.44269504f;

// The part of a row's context that a block attends, [begin, end): all splits of a row are as long, to a block of the cache.
struct Span {
  uint32_t begin, end, splits;  // of the row

  FILIGREE_DEVICE Span(uint32_t context, uint32_t window, uint32_t split, uint32_t most_log2) {
    const uint32_t oldest = window && context > window ? context - window : 0;
    const uint32_t first = oldest / kBlockTokens, blocks = ceil_div(context, kBlockTokens) - first;
    splits = ((blocks * kBlockTokens - 1) >> most_log2) + 1;
    // Exact below 2^20 blocks: the half keeps it from every whole number by more than the division is off.
    const uint32_t each = static_cast<uint32_t>(
                       __fdividef(static_cast<float>(blocks) + 0.5f, static_cast<float>(splits))),
                   longer = blocks - each * splits;
    const uint32_t from = first + split * each + min(split, longer);
    begin = max(from * kBlockTokens, oldest);
    end = split < splits ? min((from + each + (split < longer ? 1 : 0)) * kBlockTokens, context) : 0;
  }
};

// Query heads of a key head, those of a block, blocks that share a key head; splits of the grid, the logarithm of their most positions.
struct Division {
  uint32_t group, heads, parts, splits, most_log2;
};

// Places in shared memory, in bytes.
template <class T, uint32_t Dims>
struct DecodeShared {
  static constexpr uint32_t turns = 0,               // [half] cosine, sine
      weights = turns + Dims * 4,                    // [warps][heads] reference, total
      joins = weights + kWarps * kMostHeads<T> * 8,  // is this block the last of its row and key head
      fresh_scales = joins + 8,                      // of the new key and the new value
      fresh = fresh_scales + 8,                      // [dim] each
      query = fresh + 2 * Dims * sizeof(T),          // fragments
      sums = query + kFragmentBytes * (Dims / 16);   // [warps][heads][dim]
  static_assert(fresh % 16 == 0 && query % 16 == 0);
};

// One column of the joined splits of a head, [splits][dim + 2]: sums, reference, total. A pass asks for all of its parts at once; a lane
// has the weight of one of them.
FILIGREE_DEVICE float join_splits(const float* parts, uint32_t dim, uint32_t splits, uint32_t column,
                                  uint32_t lane) {
  constexpr uint32_t kTogether = 16;
  float reference = -INFINITY, sum = 0, total = 0;
#pragma unroll 1
  for (uint32_t first = 0; first < splits; first += kTogether) {
    const auto part = [&](uint32_t i) {
      return parts + static_cast<size_t>(min(first + i, splits - 1)) * (dim + 2);
    };
    float value[kTogether];
    float2 weight = __ldcg(reinterpret_cast<const float2*>(part(lane % kTogether) + dim));
#pragma unroll
    for (uint32_t i = 0; i < kTogether; ++i) value[i] = __ldcg(part(i) + column);
    if (first + lane % kTogether >= splits) weight.x = -INFINITY;
    float higher = fmaxf(reference, weight.x);
#pragma unroll
    for (int o = kTogether / 2; o; o >>= 1) higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, o));
    const float factor = exp2_approx(reference - higher), mine = exp2_approx(weight.x - higher);
    reference = higher, sum *= factor, total = fmaf(weight.y, mine, total * factor);
#pragma unroll
    for (uint32_t i = 0; i < kTogether; ++i)
      sum = fmaf(value[i], __shfl_sync(~0u, mine, static_cast<int>(i)), sum);
  }
#pragma unroll
  for (int o = kTogether / 2; o; o >>= 1) total += __shfl_xor_sync(~0u, total, o);
  return __fdividef(sum, total);
}

template <class T, uint32_t Dims>
__global__ void __launch_bounds__(kThreads, Dims > 128 ? 2 : 4)
    decode_attend_kernel(const StepRows rows, const AttentionShape shape, const DecodeInput in,
                         const KvPages kv, const Division division, float* partials, uint32_t* arrivals,
                         __nv_bfloat16* out, const uint32_t stride) {
  using Place = DecodeShared<T, Dims>;
  float2* const turns = reinterpret_cast<float2*>(shared + Place::turns);
  float2* const weights = reinterpret_cast<float2*>(shared + Place::weights);
  uint32_t& joins = *reinterpret_cast<uint32_t*>(shared + Place::joins);
  float* const fresh_scales = reinterpret_cast<float*>(shared + Place::fresh_scales);
  T* const fresh = reinterpret_cast<T*>(shared + Place::fresh);
  uint4* const query = reinterpret_cast<uint4*>(shared + Place::query);
  float* const sums = reinterpret_cast<float*>(shared + Place::sums);
  const uint32_t dim = kv.head_dim, half = dim / 2;
  const uint32_t row = blockIdx.y, kv_head = blockIdx.x;
  const uint32_t part = division.parts == 1 ? 0 : blockIdx.z / division.splits,
                 split = blockIdx.z - part * division.splits;
  const uint32_t query_head = kv_head * division.group + part * division.heads,
                 heads = min(division.heads, division.group - part * division.heads);
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  let_next_start();

  // Rows and tables were copied before the step's first kernel, and the cache's earlier rows in earlier steps.
  const int32_t position = rows.positions[row];
  const float frequency = thread < half ? in.inv_freq[thread] : 0.0f;
  const int32_t* const table = rows.block_tables + static_cast<size_t>(rows.tables[row]) * rows.table_stride;
  const uint32_t context = static_cast<uint32_t>(position) + 1;
  const Span span(max(context, 1u), shape.sliding_window, split, division.most_log2);
  const bool live = position >= 0 && span.begin < span.end, newest = live && span.end == context;
  const uint32_t stored = newest ? context - 1 : context;
  const uint32_t blocks_end = live ? ceil_div(span.end, kBlockTokens) : 0;
  uint32_t block = span.begin / kBlockTokens + warp;  // of the context

  const auto page_of = [&](uint32_t b) { return static_cast<uint32_t>(table[b]); };
  uint32_t page = block < blocks_end ? page_of(block) : 0,
           next_page = block + kWarps < blocks_end ? page_of(block + kWarps) : 0;
  if (live) {
    for (uint32_t i = thread; i < Dims / 16 * 32; i += kThreads) query[i] = make_uint4(0, 0, 0, 0);
    if (thread < half) {
      float sine, cosine;
      sincosf(static_cast<float>(position) * frequency, &sine, &cosine);
      turns[thread] = make_float2(cosine * in.attention_scale, sine * in.attention_scale);
    }
  }
  CacheTile<T, Dims> tile;
  tile.clear();
  if (block < blocks_end) {
    tile.fetch_keys(kv, page, kv_head, lane);
    tile.fetch_values(kv, page, kv_head, lane, block * kBlockTokens, stored);
  }
  // A split beyond the context has nothing to wait for; the blocks that do hold back the kernel after this one.
  if (!live && (position >= 0 || split > 0)) return;
  __syncthreads();
  wait_for_inputs();
  __nv_bfloat16* const to = out + static_cast<size_t>(row) * stride + query_head * dim;
  if (!live) {
    for (uint32_t i = thread; i < heads * dim; i += kThreads) to[i] = __float2bfloat16(0.0f);
    return;
  }
  const float* const from = in.qkv + static_cast<size_t>(row) * in.stride;
  const auto turned = [&](const float* head) {
    return HeadPairs(lane, half,
                     [&](uint32_t d) { return rotated(head[d], head[half + d], turns[d].x, turns[d].y); });
  };
#pragma unroll 1
  for (uint32_t g = warp; g < heads; g += kWarps)
    put_query<T, Dims>(query, g, turned(from + (query_head + g) * dim), shape.scale * kLog2e, lane, half);
  if (newest && warp >= kWarps - 2) {  // one the key, one the value
    const bool key = warp == kWarps - 2;
    const float* const head = from + (shape.heads + kv_head + (key ? 0 : kv.kv_heads)) * dim;
    const HeadPairs pairs =
        key ? turned(head)
            : HeadPairs(lane, half, [&](uint32_t d) { return make_float2(head[d], head[half + d]); });
    const float scale = pairs.template scale<T>();
    pairs.store(KvRow<T>{fresh + (key ? 0 : dim), fresh_scales + (key ? 0 : 1)}, scale, lane, half);
    if (part == 0) {
      const uint32_t at = context - 1;
      pairs.store(row_of<T>(key ? kv.keys : kv.values, kv, page_of(at / kBlockTokens), kv_head, at), scale,
                  lane, half);
    }
  }
  __syncthreads();

  WeightedSums<T, Dims> mine;
  for (; block < blocks_end; block += kWarps) {
    const bool has_fresh = newest && block == blocks_end - 1;
    const uint32_t next = block + kWarps, slot = (context - 1) % kBlockTokens;
    page = next_page;
    if (has_fresh) tile.patch_keys(fresh, fresh_scales, slot, dim, lane);
    float scores[2][2];
    tile.scores(query, lane, scores);
    if (next < blocks_end) {
      if (next + kWarps < blocks_end) next_page = page_of(next + kWarps);
      tile.fetch_keys(kv, page, kv_head, lane);
    }
    if (has_fresh) tile.patch_values(fresh + dim, fresh_scales + 1, slot, dim, lane);
    mine.add(tile, scores, block * kBlockTokens, span.begin, span.end, lane);
    if (next < blocks_end) tile.fetch_values(kv, page, kv_head, lane, next * kBlockTokens, stored);
  }
  mine.store(weights + warp * kMostHeads<T>, sums + warp * heads * dim, heads, dim, lane);
  __syncthreads();

  // The warps meet, then the row's splits.
  const uint32_t part_floats = dim + 2;
  float* const parts =
      partials + (static_cast<size_t>(row) * shape.heads + query_head) * division.splits * part_floats;
#pragma unroll 1
  for (uint32_t g = 0; g < heads; ++g) {
#pragma unroll 1
    for (uint32_t d = thread; d < dim; d += kThreads) {
      float reference = -INFINITY, sum = 0, total = 0;
#pragma unroll
      for (uint32_t w = 0; w < kWarps; ++w) reference = fmaxf(reference, weights[w * kMostHeads<T> + g].x);
#pragma unroll
      for (uint32_t w = 0; w < kWarps; ++w) {
        const float2 of_warp = weights[w * kMostHeads<T> + g];
        const float factor = exp2_approx(of_warp.x - reference);
        sum = fmaf(sums[(w * heads + g) * dim + d], factor, sum), total = fmaf(of_warp.y, factor, total);
      }
      if (span.splits == 1) {
        to[g * dim + d] = __float2bfloat16(__fdividef(sum, total));
        continue;
      }
      float* const mine_of = parts + (static_cast<size_t>(g) * division.splits + split) * part_floats;
      __stcg(mine_of + d, sum);
      if (d == 0) __stcg(reinterpret_cast<float2*>(mine_of + dim), make_float2(reference, total));
    }
  }
  if (span.splits == 1) return;
  __syncthreads();
  if (thread == 0)
    joins = arrive(arrivals + row * shape.heads + query_head, span.splits - 1) == span.splits - 1;
  __syncthreads();
  if (!joins) return;
#pragma unroll 1
  for (uint32_t g = 0; g < heads; ++g) {
    const float* const head = parts + static_cast<size_t>(g) * division.splits * part_floats;
#pragma unroll 1
    for (uint32_t first = warp * 32; first < dim; first += kThreads) {  // whole warps
      const uint32_t d = first + lane;
      const float joined = join_splits(head, dim, span.splits, min(d, dim - 1), lane);
      if (d < dim) to[g * dim + d] = __float2bfloat16(joined);
    }
  }
}

template <class T, uint32_t Dims>
cudaError_t decode_as(const StepRows& rows, uint32_t count, const AttentionShape& shape,
                      const DecodeInput& in, const KvPages& kv, uint32_t splits, float* partials,
                      uint32_t* arrivals, __nv_bfloat16* out, uint32_t stride, bool dependent,
                      cudaStream_t stream) {
  // Blocks of as equal numbers of heads as can be.
  const uint32_t group = shape.heads / kv.kv_heads, parts = ceil_div(group, kMostHeads<T>),
                 heads = ceil_div(group, parts);
  uint32_t most_log2 = 0;
  while (1u << most_log2 < in.split_positions) ++most_log2;
  return launch(decode_attend_kernel<T, Dims>, dim3(kv.kv_heads, count, parts * splits), kThreads,
                DecodeShared<T, Dims>::sums + kWarps * heads * kv.head_dim * 4, dependent, stream, rows,
                shape, in, kv, Division{group, heads, parts, splits, most_log2}, partials, arrivals, out,
                stride);
}

}  // namespace

bool decode_attention_fits(KvElement element, uint32_t head_dim) {
  return head_dim * kv_element_bytes(element) % 16 == 0 && head_dim <= 256;
}

cudaError_t decode_attend(const StepRows& rows, uint32_t count, const AttentionShape& shape,
                          const DecodeInput& in, const KvPages& kv, uint32_t splits, float* partials,
                          uint32_t* arrivals, void* out, uint32_t stride, bool dependent,
                          cudaStream_t stream) {
  if (in.split_positions < kBlockTokens || (in.split_positions & (in.split_positions - 1)) != 0 ||
      !decode_attention_fits(kv.element, kv.head_dim))
    return cudaErrorInvalidValue;
  return with_element(kv.element, [&](auto type) {
    using T = Pointee<decltype(type)>;
    const auto as = [&](auto run) {
      return run(rows, count, shape, in, kv, splits, partials, arrivals, static_cast<__nv_bfloat16*>(out),
                 stride, dependent, stream);
    };
    return kv.head_dim <= 64    ? as(decode_as<T, 64>)
           : kv.head_dim <= 128 ? as(decode_as<T, 128>)
                                : as(decode_as<T, 256>);
  });
}

}  // namespace filigree::cuda
