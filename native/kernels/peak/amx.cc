#include <immintrin.h>

#include "kernels/peak/chains.h"

namespace filigree {
namespace {

// Full tiles: 16 rows of 64 bytes each. They hold zeros.
void configure() {
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } shape;
  asm volatile("" ::"r"(&shape) : "memory");
  _tile_loadconfig(&shape);
}

int64_t release() {
  alignas(64) int32_t sums[256];
  _tile_stored(0, sums, 64);
  _tile_release();
  return sums[0];
}

}  // namespace

// Six accumulators, two factors: a product takes 16 cycles and its sum is there after 52.
static_assert(kPeakChains == 12);

int64_t peak_amx_i8(uint64_t rounds) {
  configure();
  for (uint64_t round = 0; round < rounds; ++round) {
    for (int half = 0; half < 2; ++half) {
      _tile_dpbssd(0, 6, 7);
      _tile_dpbssd(1, 6, 7);
      _tile_dpbssd(2, 6, 7);
      _tile_dpbssd(3, 6, 7);
      _tile_dpbssd(4, 6, 7);
      _tile_dpbssd(5, 6, 7);
    }
  }
  return release();
}

int64_t peak_amx_bf16(uint64_t rounds) {
  configure();
  for (uint64_t round = 0; round < rounds; ++round) {
    for (int half = 0; half < 2; ++half) {
      _tile_dpbf16ps(0, 6, 7);
      _tile_dpbf16ps(1, 6, 7);
      _tile_dpbf16ps(2, 6, 7);
      _tile_dpbf16ps(3, 6, 7);
      _tile_dpbf16ps(4, 6, 7);
      _tile_dpbf16ps(5, 6, 7);
    }
  }
  return release();
}

}  // namespace filigree
