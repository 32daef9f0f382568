#include <cuda_bf16.h>

#include "cuda/linear.h"
#include "cuda/ptx.cuh"

namespace filigree::cuda {
namespace {

FILIGREE_DEVICE uint32_t bf16_bits(float x) { return __bfloat16_as_ushort(__float2bfloat16(x)); }

// A warp expands a block: each lane's fragments are runs of 8 or 16 columns of two rows.
__global__ void __launch_bounds__(128) expand_kernel(const TileMatrix m, uint4* dense) {
  const size_t block = static_cast<size_t>(blockIdx.x) * 4 + threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  if (block >= m.blocks()) return;
  const bool bf16 = m.kind == Values::bf16;
  const uint32_t words = mask_words(m.kind), per = values_per_chunk(m.kind);
  const uint8_t* data = m.data + static_cast<size_t>(m.offsets[block]) * 16;
  const uint32_t* masks = reinterpret_cast<const uint32_t*>(data);
  uint32_t mask[8], stored = 0;
  for (uint32_t w = 0; w < words; ++w) {
    mask[w] = masks[(w / 4 * kLanes + lane) * 4 + w % 4];
    stored += __popc(mask[w]);
  }
  const uint32_t chunks = (stored + per - 1) / per, tail = chunks > m.lead ? chunks - m.lead : 0;
  uint32_t before = tail;
  for (int o = 1; o < 32; o <<= 1) {
    const uint32_t up = __shfl_up_sync(~0u, before, o);
    if (lane >= o) before += up;
  }
  const uint8_t* lead = data + words * 128;
  const uint8_t* rest = lead + m.lead * 256 + (before - tail) * 8;
  uint32_t n = 0;
  const uint32_t row_tile = static_cast<uint32_t>(block / m.block_columns());
  const uint32_t column0 = static_cast<uint32_t>(block % m.block_columns()) * m.block_cols();
  const uint32_t width = bf16 ? 8 : 16, registers = bf16 ? 2 : 4;  // columns of a run; values a register
  const uint32_t g = lane / 4, t = lane % 4;
  float scale[2] = {1, 1};
  for (uint32_t r = 0; r < 2 && m.row_scales; ++r)
    scale[r] = row_tile * 16 + g + 8 * r < m.rows ? m.row_scales[row_tile * 16 + g + 8 * r] : 0;
  const uint32_t steps = positions(m.kind) / (8 * registers);
  for (uint32_t step = 0; step < steps; ++step) {
    uint32_t run[2][8] = {};  // bf16 pairs of the run, of both rows
    for (uint32_t reg = 0; reg < 8; ++reg) {
      const uint32_t r = reg % 4;
      for (uint32_t i = 0; i < registers; ++i) {
        uint32_t word, bit;
        mask_bit(m.kind, (step * 8 + reg) * registers + i, &word, &bit);
        uint32_t bits = 0;
        if (mask[word] >> bit & 1) {
          const uint32_t chunk = n / per;
          const uint8_t* at =
              chunk < m.lead ? lead + (chunk * kLanes + lane) * 8 : rest + (chunk - m.lead) * 8;
          if (bf16) {
            bits = reinterpret_cast<const uint16_t*>(at)[n % per];
            if (m.row_scales) bits = bf16_bits(__uint_as_float(bits << 16) * scale[r % 2]);
          } else {
            bits = bf16_bits(static_cast<float>(static_cast<int8_t>(at[n % per])) * scale[r % 2]);
          }
          ++n;
        }
        const uint32_t in_run = reg / 4 * 2 * registers + r / 2 * registers + i;
        run[r % 2][in_run / 2] |= bits << (16 * (in_run % 2));
      }
    }
    for (uint32_t r = 0; r < 2; ++r) {
      const uint32_t row = row_tile * 16 + g + 8 * r, column = column0 + step * 4 * width + t * width;
      if (row >= m.rows) continue;
      for (uint32_t q = 0; q < width / 8; ++q) {
        if (column + q * 8 >= m.cols) break;
        const size_t at = (static_cast<size_t>(row) * m.cols + column) / 8 + q;  // cols is a multiple of 8
        dense[at] = make_uint4(run[r][q * 4], run[r][q * 4 + 1], run[r][q * 4 + 2], run[r][q * 4 + 3]);
      }
    }
  }
}

}  // namespace

cudaError_t expand_tiles(const TileMatrix& m, void* dense, cudaStream_t stream) {
  if (m.tiles != Tiles::bitmask || m.cols % 8 != 0) return cudaErrorInvalidValue;
  expand_kernel<<<static_cast<uint32_t>(ceil_div<size_t>(m.blocks(), 4)), 128, 0, stream>>>(
      m, static_cast<uint4*>(dense));
  return cudaGetLastError();
}

}  // namespace filigree::cuda
