#include <algorithm>
#include <vector>

#include "cuda/pack.h"
#include "cuda/ptx.cuh"

namespace filigree::cuda {
namespace {

template <class Source>
__global__ void count_chunks_kernel(RowLanesShape s, Source source, uint8_t* counts, uint32_t* totals) {
  const size_t unit = blockIdx.x;
  const uint32_t chunks = count_chunks(s, source, unit, threadIdx.x);
  counts[unit * kLanes + threadIdx.x] = static_cast<uint8_t>(min(chunks, kMostChunks));
  const uint32_t total = __reduce_add_sync(~0u, chunks);
  if (threadIdx.x == 0) totals[unit] = total;
}

template <class Source>
__global__ void fill_chunks_kernel(RowLanes m, Source source, uint8_t* values, uint32_t* distances) {
  const size_t unit = blockIdx.x, first = m.stride ? unit * m.stride : m.offsets[unit];
  fill_chunks(static_cast<const RowLanesShape&>(m), source, unit, threadIdx.x, m.counts + unit * kLanes,
              values + first * m.chunk_bytes(), m.distance_bytes() ? distances + first : nullptr);
}

template <class Source>
__global__ void count_tiles_kernel(TileShape s, Source source, uint8_t* chunks, uint32_t* most) {
  const uint32_t n = count_lane_chunks(s, source, blockIdx.x, threadIdx.x);
  chunks[size_t{blockIdx.x} * kLanes + threadIdx.x] = static_cast<uint8_t>(n);
  const uint32_t block_most = __reduce_max_sync(~0u, n);
  if (threadIdx.x == 0) atomicMax(most, block_most);
}

__global__ void block_bytes_kernel(TileShape s, const uint8_t* chunks, size_t blocks, uint32_t* bytes) {
  const size_t block = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (block < blocks) bytes[block] = bitmask_block_bytes(s, chunks + block * kLanes);
}

template <class Source>
__global__ void fill_tiles_kernel(TileShape s, Source source, const uint8_t* chunks, const uint32_t* offsets,
                                  uint8_t* data, uint32_t* too_many) {
  const size_t block = blockIdx.x;
  const uint32_t lane = threadIdx.x;
  uint8_t* out = data + size_t{offsets[block]} * 16;
  if (s.tiles == Tiles::bitmask) {
    fill_bitmask_lane(s, source, block, lane, chunks + block * kLanes, out);
  } else if (s.tiles == Tiles::dense) {
    fill_dense_lane(s, source, block, lane, out);
  } else {
    for (uint32_t step = 0; step < 8; ++step) {
      uint32_t meta;
      if (!fill_two_four_lane(s, source, block, step, lane, out + step * 512 + lane * 16, &meta))
        atomicAdd(too_many, 1);
      const bool contributes = s.kind != Values::bf16 || lane % 4 / 2 == step % 2;
      const uint32_t pair = s.kind == Values::bf16 ? step / 2 : step;
      if (contributes) reinterpret_cast<uint32_t*>(out + 8 * 512 + pair * 128)[lane] = meta;
    }
  }
}

template <class Source>
__global__ void count_stored_kernel(Source source, unsigned long long* stored) {
  uint32_t n = 0;
  for (uint32_t col = threadIdx.x; col < source.cols; col += blockDim.x)
    n += source.code(blockIdx.x, col) != 0;
  n = __reduce_add_sync(~0u, n);
  if (threadIdx.x % 32 == 0) atomicAdd(stored, n);
}

template <class Source>
__global__ void count_full_fours_kernel(Source source, uint32_t* full) {
  uint32_t n = 0;
  for (uint32_t col = threadIdx.x * 4; col < source.cols; col += blockDim.x * 4) {
    uint32_t stored = 0;
    for (uint32_t i = 0; i < 4; ++i) stored += source.code(blockIdx.x, col + i) != 0;
    n += stored > 2;
  }
  n = __reduce_add_sync(~0u, n);
  if (threadIdx.x % 32 == 0 && n > 0) atomicAdd(full, n);
}

template <class Source>
__global__ void expand_codes_kernel(Source source, const float* row_scales, const __half* unit_scales,
                                    uint32_t group, __nv_bfloat16* out) {
  const uint32_t row = blockIdx.x;
  for (uint32_t col = threadIdx.x; col < source.cols; col += blockDim.x) {
    const int32_t code = source.code(row, col);
    float value = source.kind == Values::bf16 ? __uint_as_float(static_cast<uint32_t>(code) << 16)
                                              : static_cast<float>(code);
    if (row_scales) value *= row_scales[row];
    if (unit_scales) {
      const size_t units = (source.cols + group - 1) / group;
      value *= __half2float(unit_scales[(row / kLanes * units + col / group) * kLanes + row % kLanes]);
    }
    out[size_t{row} * source.cols + col] = __float2bfloat16(value);
  }
}

void finish(const char* what) {
  check(cudaGetLastError(), what);
  check(cudaDeviceSynchronize(), what);
}

}  // namespace

template <class Source>
PackedRowLanes pack_row_lanes(const Source& source, uint32_t unit_cols, uint32_t group) {
  if (unit_cols > 2040)
    throw Error(ErrorCode::unsupported,
                "a matrix of " + std::to_string(source.cols) + " columns is too wide for row lanes");
  RowLanesShape s;
  s.kind = source.kind, s.rows = source.rows, s.cols = source.cols;
  s.unit_cols = unit_cols, s.group = group;
  if (s.kind == Values::i4 && (group == 0 || (group & (group - 1)) != 0 || group < kChunk))
    throw Error(ErrorCode::unsupported, "row lanes want groups of a power of two");
  PackedRowLanes out;
  const size_t units = s.units();
  out.counts = DeviceBuffer(units * kLanes);
  DeviceBuffer totals_device(units * sizeof(uint32_t));
  count_chunks_kernel<<<static_cast<uint32_t>(units), kLanes>>>(s, source, out.counts.as<uint8_t>(),
                                                                totals_device.as<uint32_t>());
  finish("counting chunks");
  std::vector<uint32_t> totals(units);
  totals_device.download(totals.data(), units * sizeof(uint32_t));
  uint64_t sum = 0;
  uint32_t longest = 0;
  for (const uint32_t t : totals) sum += t, longest = std::max(longest, t);
  static_cast<RowLanesShape&>(out.view) = s;
  // A fixed stride spares the first loads a look-up; it must not cost much memory, nor 32 bits of addressing.
  const uint64_t stride = round_up(longest, 8u);
  uint64_t chunks = stride * units;
  if (chunks > sum + sum / 4 || chunks >> 32) {
    chunks = sum;
    if (sum >> 32) throw Error(ErrorCode::unsupported, "a matrix of over 2^32 chunks");
    std::vector<uint32_t> offsets(units);
    uint32_t at = 0;
    for (size_t u = 0; u < units; ++u) offsets[u] = at, at += totals[u];
    out.offsets = DeviceBuffer(units * sizeof(uint32_t));
    out.offsets.upload(offsets.data(), units * sizeof(uint32_t));
    out.view.offsets = out.offsets.template as<uint32_t>();
  } else {
    out.view.stride = static_cast<uint32_t>(stride);
  }
  out.values = DeviceBuffer((chunks + kChunkSlack) * s.chunk_bytes(), "packing weights");
  if (s.distance_bytes())
    out.distances = DeviceBuffer((chunks + kChunkSlack) * s.distance_bytes(), "packing weights");
  out.view.values = out.values.template as<uint8_t>();
  out.view.distances = out.distances.template as<uint32_t>();
  out.view.counts = out.counts.template as<uint8_t>();
  fill_chunks_kernel<<<static_cast<uint32_t>(units), kLanes>>>(
      out.view, source, out.values.template as<uint8_t>(), out.distances.template as<uint32_t>());
  finish("packing row lanes");
  out.stored_bytes =
      sum * (s.chunk_bytes() + s.distance_bytes()) + units * (kLanes + (out.view.stride ? 0 : 4));
  return out;
}

template <class Source>
PackedTiles pack_tiles(const Source& source, Tiles tiles) {
  PackedTiles out;
  TileShape s;
  s.kind = source.kind == Values::i4 ? Values::i8 : source.kind;
  s.tiles = tiles, s.rows = source.rows, s.cols = source.cols;
  const size_t blocks = s.blocks();
  std::vector<uint32_t> bytes(blocks,
                              tiles == Tiles::dense ? kDenseBlockBytes : two_four_block_bytes(s.kind));
  DeviceBuffer chunks(blocks * kLanes), flag(sizeof(uint32_t));
  if (tiles == Tiles::bitmask) {
    count_tiles_kernel<<<static_cast<uint32_t>(blocks), kLanes>>>(s, source, chunks.as<uint8_t>(),
                                                                  flag.as<uint32_t>());
    finish("counting tiles");
    uint32_t most = 0;
    flag.download(&most, sizeof most);
    TileClass found;
    if (!tile_class_for(s.kind, most, &found))
      throw Error(ErrorCode::unsupported, "no tile class holds the matrix");
    s.lead = found.lead, s.most = found.most;
    DeviceBuffer bytes_device(blocks * sizeof(uint32_t));
    block_bytes_kernel<<<static_cast<uint32_t>(ceil_div<size_t>(blocks, 256)), 256>>>(
        s, chunks.as<uint8_t>(), blocks, bytes_device.as<uint32_t>());
    finish("measuring tiles");
    bytes_device.download(bytes.data(), blocks * sizeof(uint32_t));
  }
  std::vector<uint32_t> offsets(blocks + 1, 0);
  uint64_t at = 0;
  for (size_t b = 0; b < blocks; ++b) {
    at += bytes[b] / 16;
    if (at >> 32) throw Error(ErrorCode::unsupported, "a matrix of over 64 GiB");
    offsets[b + 1] = static_cast<uint32_t>(at);
    out.view.most_bytes = std::max(out.view.most_bytes, bytes[b]);
  }
  out.offsets = DeviceBuffer(offsets.size() * sizeof(uint32_t));
  out.offsets.upload(offsets.data(), offsets.size() * sizeof(uint32_t));
  out.data = DeviceBuffer(at * 16 + 16, "packing weights");
  static_cast<TileShape&>(out.view) = s;
  out.view.data = out.data.template as<uint8_t>();
  out.view.offsets = out.offsets.template as<uint32_t>();
  check(cudaMemset(flag.data(), 0, flag.size()), "packing tiles");
  fill_tiles_kernel<<<static_cast<uint32_t>(blocks), kLanes>>>(
      s, source, chunks.as<uint8_t>(), out.view.offsets, out.data.template as<uint8_t>(),
      flag.as<uint32_t>());
  finish("packing tiles");
  uint32_t too_many = 0;
  flag.download(&too_many, sizeof too_many);
  if (too_many > 0)
    throw Error(ErrorCode::unsupported, "the matrix has four columns with more than two weights");
  out.stored_bytes = at * 16 + offsets.size() * 4;
  return out;
}

template <class Source>
double density_of(const Source& source) {
  DeviceBuffer stored(sizeof(unsigned long long));
  count_stored_kernel<<<source.rows, 256>>>(source, stored.as<unsigned long long>());
  finish("counting weights");
  unsigned long long n = 0;
  stored.download(&n, sizeof n);
  return static_cast<double>(n) / (static_cast<double>(source.rows) * source.cols);
}

template <class Source>
bool is_two_four(const Source& source) {
  DeviceBuffer full(sizeof(uint32_t));
  count_full_fours_kernel<<<source.rows, 256>>>(source, full.as<uint32_t>());
  finish("looking for 2:4");
  uint32_t n = 0;
  full.download(&n, sizeof n);
  return n == 0;
}

template <class Source>
DeviceBuffer expand_codes(const Source& source, const float* row_scales, const uint16_t* unit_scales,
                          uint32_t group) {
  DeviceBuffer out(size_t{source.rows} * source.cols * 2, "dense weights");
  expand_codes_kernel<<<source.rows, 256>>>(source, row_scales, reinterpret_cast<const __half*>(unit_scales),
                                            group, out.as<__nv_bfloat16>());
  finish("expanding weights");
  return out;
}

#define FILIGREE_PACK(SOURCE)                                                \
  template PackedRowLanes pack_row_lanes(const SOURCE&, uint32_t, uint32_t); \
  template PackedTiles pack_tiles(const SOURCE&, Tiles);                     \
  template double density_of(const SOURCE&);                                 \
  template bool is_two_four(const SOURCE&);                                  \
  template DeviceBuffer expand_codes(const SOURCE&, const float*, const uint16_t*, uint32_t);
FILIGREE_PACK(PanelCodes)
FILIGREE_PACK(RowCodes)
#undef FILIGREE_PACK

}  // namespace filigree::cuda
