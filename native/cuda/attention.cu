#include "cuda/layers.h"
#include "cuda/pages.cuh"
#include "cuda/store.cuh"

namespace filigree::cuda {
namespace {

constexpr uint32_t kAttendThreads = 128;

// A thread asks for kAhead pieces of the cache before it uses the first.
constexpr uint32_t kAhead = 4;
// Of a block that takes several rows: two of them run beside each other.
constexpr uint32_t kMostShared = 96 << 10;

// One split of the context of up to Rows consecutive rows of a sequence, for the Group query heads that share a key head: what a key
// costs is shared by all of them. Eight lanes take a key; of the values a thread takes a piece of every parts-th position. Which
// lanes take a position depends on the position alone, and one that a row does not see weighs nothing: a row's sums are those that it
// has without the others, bit for bit.
template <class T, int Group, int Rows>
__global__ void __launch_bounds__(kAttendThreads)
    attend_kernel(const StepRows rows, const AttentionShape shape, const float* q, const KvPages kv,
                  uint32_t splits, float* partials) {
  extern __shared__ __align__(16) float memory[];
  constexpr const T* kType = nullptr;
  const uint32_t kv_head = blockIdx.x, row = blockIdx.y, split = blockIdx.z, dim = kv.head_dim;
  let_next_start();
  wait_for_inputs();
  constexpr int kQueries = Group * Rows;
  const int32_t position = rows.positions[row];
  if (position < 0) return;
  const int32_t sequence = rows.tables[row];
  uint32_t taken = 1;  // rows
  if constexpr (Rows > 1) {
    // The first of a run, and of every Rows positions, takes those up to the next.
    const auto follows = [&](uint32_t other, int32_t at) {
      return rows.tables[other] == sequence && rows.positions[other] == at;
    };
    if (position % Rows != 0 && row > 0 && follows(row - 1, position - 1)) return;
    const uint32_t most_rows = min(Rows - static_cast<uint32_t>(position) % Rows, gridDim.y - row);
    while (taken < most_rows && follows(row + taken, position + static_cast<int32_t>(taken))) ++taken;
  }
  const uint32_t context = static_cast<uint32_t>(position) + 1;  // of the first
  const auto oldest = [&](uint32_t of) {
    return shape.sliding_window && of > shape.sliding_window ? of - shape.sliding_window : 0;
  };
  const uint32_t begin = split * shape.split_positions;
  const uint32_t end = min(begin + shape.split_positions, context + taken - 1);
  if (begin >= end || end <= oldest(context)) return;
  const uint32_t pieces = dim / kPiece, parts = kAttendThreads / pieces;
  // Of queries, row by row and head by head.
  float* const query = memory;                   // [kQueries][dim]
  float* const scores = query + kQueries * dim;  // [kQueries][split_positions]
  float* const sums =
      scores + kQueries * shape.split_positions;  // [warps][kQueries], then [parts][kQueries][dim + 2]
  uint32_t* const blocks = reinterpret_cast<uint32_t*>(sums + parts * kQueries * (dim + 2));  // of the split
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int32_t* const table = rows.block_tables + static_cast<size_t>(sequence) * rows.table_stride;
  for (uint32_t i = thread; i < ceil_div(end - begin, kBlockTokens); i += kAttendThreads)
    blocks[i] = static_cast<uint32_t>(table[begin / kBlockTokens + i]);
  for (uint32_t i = thread; i < kQueries * dim; i += kAttendThreads) {
    const uint32_t r = i / (Group * dim);
    query[i] =
        r < taken
            ? q[(static_cast<size_t>(row + r) * shape.heads + kv_head * Group) * dim + i % (Group * dim)] *
                  shape.scale
            : 0.0f;
  }
  __syncthreads();
  using Piece = typename KvTraits<T>::Piece;
  const auto row_at = [&](void* pages_of, uint32_t p) {
    return row_of<T>(pages_of, kv, blocks[(p - begin) / kBlockTokens], kv_head, p);
  };
  const auto piece_at = [&](void* pages_of, uint32_t p, uint32_t index) {
    return p < end ? reinterpret_cast<const Piece*>(row_at(pages_of, p).elements)[index] : Piece{};
  };
  const auto scale_at = [&](void* pages_of, uint32_t p) {
    return p < end ? *row_at(pages_of, p).scale : 0.0f;
  };

  const uint32_t eighth = lane % 8;
  float most[kQueries];
#pragma unroll
  for (int g = 0; g < kQueries; ++g) most[g] = -INFINITY;
  constexpr uint32_t kStep = kAttendThreads / 8;
  for (uint32_t p0 = begin + warp * 4; p0 < end; p0 += kStep * kAhead) {
    float dot[kAhead][kQueries] = {};
    float scale[kAhead];
    if constexpr (KvTraits<T>::scaled) {
#pragma unroll
      for (uint32_t u = 0; u < kAhead; ++u) scale[u] = scale_at(kv.keys, p0 + u * kStep + lane / 8);
    }
    for (uint32_t piece = eighth; piece < pieces; piece += 8) {
      Piece key[kAhead];
#pragma unroll
      for (uint32_t u = 0; u < kAhead; ++u) key[u] = piece_at(kv.keys, p0 + u * kStep + lane / 8, piece);
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        float2 part[kQueries];
#pragma unroll
        for (int g = 0; g < kQueries; ++g)
          part[g] = *reinterpret_cast<const float2*>(query + g * dim + piece * kPiece + 2 * i);
#pragma unroll
        for (uint32_t u = 0; u < kAhead; ++u) {
          const float2 k = widen(key[u], i, kType);
#pragma unroll
          for (int g = 0; g < kQueries; ++g)
            dot[u][g] = fmaf(k.y, part[g].y, fmaf(k.x, part[g].x, dot[u][g]));
        }
      }
    }
#pragma unroll
    for (uint32_t u = 0; u < kAhead; ++u) {
      const uint32_t p = p0 + u * kStep + lane / 8;
#pragma unroll
      for (int g = 0; g < kQueries; ++g) {
#pragma unroll
        for (int o = 4; o; o >>= 1) dot[u][g] += __shfl_xor_sync(~0u, dot[u][g], o);
        if constexpr (KvTraits<T>::scaled) dot[u][g] *= scale[u];
        const uint32_t sees = context + static_cast<uint32_t>(g / Group);
        if (p < min(end, sees) && p >= oldest(sees)) {
          most[g] = fmaxf(most[g], dot[u][g]);
        } else {
          dot[u][g] = -INFINITY;
        }
        if (p < end && eighth == 0) scores[g * shape.split_positions + p - begin] = dot[u][g];
      }
    }
  }
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
#pragma unroll
    for (int o = 16; o; o >>= 1) most[g] = fmaxf(most[g], __shfl_xor_sync(~0u, most[g], o));
    if (lane == 0) sums[warp * kQueries + g] = most[g];
  }
  __syncthreads();
#pragma unroll
  for (int g = 0; g < kQueries; ++g) {
    most[g] = -INFINITY;
    for (uint32_t w = 0; w < kAttendThreads / 32; ++w) most[g] = fmaxf(most[g], sums[w * kQueries + g]);
  }
  for (uint32_t i = thread; i < end - begin; i += kAttendThreads) {
#pragma unroll
    for (int g = 0; g < kQueries; ++g) {
      float* s = scores + g * shape.split_positions + i;
      *s = __expf(*s - most[g]);
    }
  }
  __syncthreads();

  const uint32_t piece = thread % pieces, part = thread / pieces;
  if (part < parts) {
    float sum[kQueries][kPiece] = {}, total[kQueries] = {};
    for (uint32_t p0 = begin + part; p0 < end; p0 += parts * kAhead) {
      Piece value[kAhead];
      float scale[kAhead];
#pragma unroll
      for (uint32_t u = 0; u < kAhead; ++u) {
        value[u] = piece_at(kv.values, p0 + u * parts, piece);
        if constexpr (KvTraits<T>::scaled) scale[u] = scale_at(kv.values, p0 + u * parts);
      }
#pragma unroll
      for (uint32_t u = 0; u < kAhead; ++u) {
        const uint32_t p = p0 + u * parts;
        const float2 v[4] = {widen(value[u], 0, kType), widen(value[u], 1, kType), widen(value[u], 2, kType),
                             widen(value[u], 3, kType)};
#pragma unroll
        for (int g = 0; g < kQueries; ++g) {
          float w = p < end ? scores[g * shape.split_positions + p - begin] : 0.0f;
          total[g] += w;
          if constexpr (KvTraits<T>::scaled) w *= scale[u];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sum[g][2 * i] = fmaf(w, v[i].x, sum[g][2 * i]);
            sum[g][2 * i + 1] = fmaf(w, v[i].y, sum[g][2 * i + 1]);
          }
        }
      }
    }
#pragma unroll
    for (int g = 0; g < kQueries; ++g) {
      float* to = sums + (part * kQueries + g) * (dim + 2);
#pragma unroll
      for (int i = 0; i < static_cast<int>(kPiece); ++i) to[piece * kPiece + i] = sum[g][i];
      if (piece == 0) to[dim] = total[g];
    }
  }
  __syncthreads();
  const size_t head_stride = static_cast<size_t>(splits) * (dim + 2);
  for (uint32_t i = thread; i < taken * Group * (dim + 1); i += kAttendThreads) {
    const uint32_t g = i / (dim + 1), d = i % (dim + 1);
    float* const out =
        partials +
        (static_cast<size_t>(row + g / Group) * shape.heads + kv_head * Group + g % Group) * head_stride +
        split * (dim + 2);
    float s = 0;
    for (uint32_t k = 0; k < parts; ++k) s += sums[(k * kQueries + g) * (dim + 2) + d];
    out[d] = s;
    if (d == dim) {
      float of_query = most[0];
#pragma unroll
      for (int n = 1; n < kQueries; ++n) of_query = g == static_cast<uint32_t>(n) ? most[n] : of_query;
      out[dim + 1] = of_query;
    }
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

// Rows of a run that a block takes: eight queries in all, as registers allow.
constexpr uint32_t rows_together(uint32_t group) { return group > 4 ? 1 : group > 2 ? 2 : 8 / group; }

template <class T>
cudaError_t attend_as(const StepRows& rows, uint32_t count, const AttentionShape& shape, const float* q,
                      const KvPages& kv, bool runs, uint32_t splits, float* partials, bool dependent,
                      cudaStream_t stream) {
  const uint32_t group = shape.heads / kv.kv_heads, parts = kAttendThreads / (kv.head_dim / kPiece);
  const auto bytes = [&](uint32_t queries) {
    return 4 * (queries * (kv.head_dim + shape.split_positions + parts * (kv.head_dim + 2)) +
                shape.split_positions / kBlockTokens + 1);
  };
  // Splits of a very long context leave room for one row's scores only.
  const bool fits = bytes(group * rows_together(group)) <= kMostShared;
  const uint32_t together = runs && fits ? rows_together(group) : 1, shared = bytes(group * together);
  const dim3 grid(kv.kv_heads, count, splits);
#define FILIGREE_ATTEND(GROUP)                                                                               \
  case GROUP:                                                                                                \
    return launch(together > 1 ? attend_kernel<T, GROUP, rows_together(GROUP)> : attend_kernel<T, GROUP, 1>, \
                  grid, kAttendThreads, shared, dependent, stream, rows, shape, q, kv, splits, partials);
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
                   const KvPages& kv, bool runs, uint32_t splits, float* partials, void* out, uint32_t stride,
                   bool dependent, cudaStream_t stream) {
  const cudaError_t error = with_element(kv.element, [&](auto type) {
    return attend_as<Pointee<decltype(type)>>(rows, count, shape, q, kv, runs, splits, partials, dependent,
                                              stream);
  });
  if (error != cudaSuccess) return error;
  return launch(join_attention_kernel, dim3(shape.heads, count), 64, 0, dependent, stream, rows, shape,
                kv.head_dim, splits, partials, static_cast<__nv_bfloat16*>(out), stride);
}

}  // namespace filigree::cuda
