#include "cuda/linear.h"
#include "cuda/store.cuh"

namespace filigree::cuda {
namespace {

constexpr uint32_t kAhead = 4;  // chunks asked for before the first is used

template <Values Kind>
struct ChunkOf {
  using Type = uint4;
};
template <>
struct ChunkOf<Values::i8> {
  using Type = uint2;
};
template <>
struct ChunkOf<Values::i4> {
  using Type = uint2;  // values and distances
};

// A chunk's i-th weight as bf16 bits; 0 where it is only a step on the way to the next, or fills the chunk.
template <Values Kind>
FILIGREE_DEVICE uint16_t weight(const uint4& v, int i, float) {
  const uint32_t pair = i / 2 == 0 ? v.x : i / 2 == 1 ? v.y : i / 2 == 2 ? v.z : v.w;
  return static_cast<uint16_t>(i % 2 ? pair >> 16 : pair);
}
template <Values Kind>
FILIGREE_DEVICE uint16_t weight(const uint2& v, int i, float scale) {
  const int code = Kind == Values::i4 ? static_cast<int>((v.x >> (4 * i) & 15u) ^ 8u) - 8
                                      : static_cast<int>((i < 4 ? v.x : v.y) >> (8 * (i % 4)) & 255u) - 128;
  return __bfloat16_as_ushort(__float2bfloat16(static_cast<float>(code) * scale));
}

FILIGREE_DEVICE uint32_t second_word(const uint2& v) { return v.y; }
FILIGREE_DEVICE uint32_t second_word(const uint4& v) { return v.y; }

// A warp has one unit: its lanes scatter their rows' weights into zeroed shared memory, which leaves for the matrix in whole lines.
template <Values Kind>
__global__ void expand_kernel(const RowLanes m, uint4* dense) {
  extern __shared__ __align__(16) uint8_t shared[];
  using Type = typename ChunkOf<Kind>::Type;
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const size_t unit = static_cast<size_t>(blockIdx.x) * (blockDim.x / 32) + warp;
  if (unit >= m.units()) return;
  const uint32_t row_bytes = m.unit_cols * 2 + 16;  // rows begin in different banks
  uint8_t* const tile = shared + warp * kLanes * row_bytes;
  const uint32_t group = static_cast<uint32_t>(unit / m.units_per_group());
  const uint32_t column0 = static_cast<uint32_t>(unit % m.units_per_group()) * m.unit_cols;
  const uint32_t my_row = group * kLanes + lane;

  const uint32_t count = m.counts[unit * kLanes + lane];
  uint32_t base = m.stride ? static_cast<uint32_t>(unit * m.stride) : m.offsets[unit];
  float scale = 1;
  if (Kind == Values::i8 && my_row < m.rows) scale = m.row_scales[my_row];
  // i4: of the quantization group of a chunk, which its last column tells.
  const auto group_scale = [&](int last) {
    const uint32_t g = (column0 + static_cast<uint32_t>(max(last, 0))) / m.group;
    const size_t at = (static_cast<size_t>(group) * m.scale_groups() + g) * kLanes + lane;
    return __half2float(reinterpret_cast<const __half*>(m.unit_scales)[at]);
  };
  for (uint32_t i = lane; i < kLanes * row_bytes / 16; i += 32)
    reinterpret_cast<uint4*>(tile)[i] = make_uint4(0, 0, 0, 0);
  const uint32_t most = __reduce_max_sync(~0u, count), below = lanes_below();
  __syncwarp();

  uint8_t* const row = tile + lane * row_bytes;
  int column = -1;
  for (uint32_t chunk = 0; chunk < most; chunk += kAhead) {
    Type v[kAhead];
    uint32_t d[kAhead];
#pragma unroll
    for (uint32_t u = 0; u < kAhead; ++u) {
      const bool mine = chunk + u < count;
      const uint32_t active = __ballot_sync(~0u, mine);
      const uint32_t at = base + __popc(active & below);
      base += __popc(active);
      v[u] = load_once_if(reinterpret_cast<const Type*>(m.values) + at, mine, 0);
      d[u] = Kind == Values::i4 ? second_word(v[u]) : load_once_if(m.distances + at, mine, 0);
    }
#pragma unroll
    for (uint32_t u = 0; u < kAhead; ++u) {
      if (chunk + u >= count) break;
      if constexpr (Kind == Values::i4) {
        const uint32_t pairs = (d[u] & 0x0f0f0f0fu) + (d[u] >> 4 & 0x0f0f0f0fu);
        scale = group_scale(column + static_cast<int>(pairs * 0x01010101u >> 24));
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        column += static_cast<int>(d[u] >> (4 * i) & 15u);
        const uint16_t bits = weight<Kind>(v[u], i, scale);
        if (bits & 0x7fff) *reinterpret_cast<uint16_t*>(row + column * 2) = bits;
      }
    }
  }
  __syncwarp();
  const uint32_t pieces = (min(m.unit_cols, m.cols - column0)) / 8;  // of a row; columns are a multiple of 8
  for (uint32_t i = lane; i < kLanes * pieces; i += 32) {
    const uint32_t r = i / pieces, q = i % pieces;
    if (group * kLanes + r >= m.rows) break;
    dense[(static_cast<size_t>(group * kLanes + r) * m.cols + column0) / 8 + q] =
        *reinterpret_cast<const uint4*>(tile + r * row_bytes + q * 16);
  }
}

}  // namespace

cudaError_t expand_row_lanes(const RowLanes& m, void* dense, cudaStream_t stream) {
  if (m.cols % 8 != 0 || m.unit_cols % 8 != 0) return cudaErrorInvalidValue;
  const uint32_t tile = kLanes * (m.unit_cols * 2 + 16);
  // Two blocks or more a multiprocessor of any architecture, where a warp's tile allows.
  const uint32_t fit = (48u << 10) / tile, warps = fit < 1 ? 1 : fit > 8 ? 8 : fit;
  const auto kernel = m.kind == Values::bf16 ? expand_kernel<Values::bf16>
                      : m.kind == Values::i8 ? expand_kernel<Values::i8>
                                             : expand_kernel<Values::i4>;
  return launch(kernel, dim3(static_cast<uint32_t>(ceil_div<size_t>(m.units(), warps))), warps * 32,
                warps * tile, false, stream, m, static_cast<uint4*>(dense));
}

}  // namespace filigree::cuda
