#pragma once
// Tiles of bf16 for both multiplications: vdpbf16ps, or widened to f32 where the processor lacks it. Needs VBMI2 (vpexpandw).
#include "kernels/linear/avx512_tiles.h"

namespace filigree::linear {
namespace {

struct Bf16Tile {
  static constexpr size_t kMaskBytes = 4;
  static uint32_t take(const std::byte* masks, size_t tile) {
    uint32_t bits;
    __builtin_memcpy(&bits, masks + 4 * tile, 4);
    return bits;
  }
  static size_t count(uint32_t bits) { return static_cast<size_t>(__builtin_popcount(bits)) * 2; }
  static __m512i expand(uint32_t bits, const std::byte*, const std::byte* at, int) {
    return _mm512_maskz_expand_epi16(bits, _mm512_loadu_si512(at));
  }
  static __m512 finish(__m512i acc, const Matrix&, const Input&, uint32_t, uint32_t) {
    return _mm512_castsi512_ps(acc);
  }
  static Dwords dwords(const Input& in) {
    return {reinterpret_cast<const std::byte*>(in.bf16), in.stride * 2};
  }
};

}  // namespace
}  // namespace filigree::linear
