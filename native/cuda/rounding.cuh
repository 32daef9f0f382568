#pragma once

#include "cuda/ptx.cuh"

namespace filigree::cuda {

// A block of a row of activations as i8 codes. A lane has columns 256 p + 8 lane and on, as piece p.
template <uint32_t Pieces>
struct RoundedBlock {
  uint2 codes[Pieces];
  float scale;  // largest / 127; NaN or infinite where one of the columns is
};

// By a warp, from bf16.
template <uint32_t Pieces>
FILIGREE_DEVICE RoundedBlock<Pieces> round_block(const uint4 (&pieces)[Pieces]) {
  uint32_t most = 0;
  const auto word = [&](uint32_t i) {
    const uint4& p = pieces[i / 4];
    return i % 4 == 0 ? p.x : i % 4 == 1 ? p.y : i % 4 == 2 ? p.z : p.w;
  };
#pragma unroll
  for (uint32_t i = 0; i < Pieces * 4; ++i) most = __vmaxu2(most, word(i) & 0x7fff7fffu);
  most = __reduce_max_sync(~0u, max(most >> 16, most & 0xffffu));
  const float largest = __uint_as_float(most << 16), inverse = most ? 127.0f / largest : 0.0f;
  // Added to 1.5 x 2^23, a code is the last byte of the mantissa: conversions run at an eighth of the rate.
  const auto code = [&](float f) { return __float_as_uint(__fadd_rn(__fmul_rn(f, inverse), 12582912.0f)); };
  const auto four = [&](uint32_t a, uint32_t b) {
    return prmt(prmt(code(low_bf16(a)), code(high_bf16(a)), 0x0040),
                prmt(code(low_bf16(b)), code(high_bf16(b)), 0x0040), 0x5410);
  };
  RoundedBlock<Pieces> out;
#pragma unroll
  for (uint32_t p = 0; p < Pieces; ++p)
    out.codes[p] = make_uint2(four(pieces[p].x, pieces[p].y), four(pieces[p].z, pieces[p].w));
  out.scale = largest / 127.0f;
  return out;
}

}  // namespace filigree::cuda
