#pragma once
// i4 in the layout slots8 on 256-bit registers, once for AVX2 and once for AVX-VNNI: only nonzeros are multiplied, |w| by
// sign(x, w) as in avx2_i8.cc, and a group's exact sum meets its scale. A Dot has kSteps, the steps whose sums it may add before
// total(), and Sum with add(magnitudes, signed bytes) and total().
#include "kernels/linear/avx2_common.h"
#include "kernels/linear/slots.h"

namespace filigree::linear {
namespace {

constexpr uint32_t kTokenTile = 8;
constexpr uint32_t kTokenChunk = 64;  // tokens whose activations stay in the second-level cache
constexpr size_t kAhead = 1536;

// What an octet's products are scaled by and where they go.
struct OctetOut {
  const uint16_t* scales;  // of group 0; the next group's are 32 further
  uint32_t groups, row;
};

// One octet for TB tokens `stride` bytes apart; returns the end of its stream.
template <class Dot, int kGroup, int TB>
const std::byte* run_octet(const Matrix& m, const OctetOut& o, const std::byte* at, const int8_t* x,
                           size_t stride, const float* token_scales, float* out, size_t out_stride) {
  const __m256i low_nibble = _mm256_set1_epi8(15);
  // |code| of a nibble in two's complement.
  const __m256i magnitude =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 6, 5, 4, 3, 2, 1));
  __m256 f[TB];
  for (int i = 0; i < TB; ++i) f[i] = _mm256_setzero_ps();
  for (uint32_t g = 0; g < o.groups; ++g, x += kGroup) {
    const int8_t* window = x;
    uint32_t left = static_cast<uint32_t>(*at++);
    __m256i sum[TB];
#pragma GCC unroll 8
    for (int i = 0; i < TB; ++i) sum[i] = _mm256_setzero_si256();
    // Ends after one turn unless a group holds more nonzeros than a partial sum has room for.
    do {
      typename Dot::Sum part[TB];
      uint32_t steps = std::min(left, Dot::kSteps);
      left -= steps;
      for (; steps > 0; --steps, at += kNibbleStepBytes) {
        prefetch(at + kAhead);
        window += static_cast<uint8_t>(at[kNibbleMove]);
        const __m256i w = load256(at), place = _mm256_and_si256(w, low_nibble);
        const __m256i size =
            _mm256_shuffle_epi8(magnitude, _mm256_and_si256(_mm256_srli_epi16(w, 4), low_nibble));
#pragma GCC unroll 8
        for (int i = 0; i < TB; ++i) {
          const __m256i all = _mm256_broadcastsi128_si256(load128(window + i * stride));
          // A byte of w has its code's sign; where the code is 0, so is the magnitude.
          part[i].add(size, _mm256_sign_epi8(_mm256_shuffle_epi8(all, place), w));
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < TB; ++i) sum[i] = _mm256_add_epi32(sum[i], part[i].total());
    } while (left > 0);
    const __m256 scale = _mm256_cvtph_ps(load128(o.scales + g * 32));
#pragma GCC unroll 8
    for (int i = 0; i < TB; ++i) f[i] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sum[i]), f[i]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < TB; ++i)
    store_rows(out + i * out_stride, o.row, m.rows, _mm256_mul_ps(f[i], _mm256_set1_ps(token_scales[i])));
  return at;
}

template <class Dot, int kGroup>
void run_slots(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,
               size_t out_stride) {
  using Octet = const std::byte* (*)(const Matrix&, const OctetOut&, const std::byte*, const int8_t*, size_t,
                                     const float*, float*, size_t);
  constexpr Octet kOctet[kTokenTile + 1] = {nullptr,
                                            run_octet<Dot, kGroup, 1>,
                                            run_octet<Dot, kGroup, 2>,
                                            run_octet<Dot, kGroup, 3>,
                                            run_octet<Dot, kGroup, 4>,
                                            run_octet<Dot, kGroup, 5>,
                                            run_octet<Dot, kGroup, 6>,
                                            run_octet<Dot, kGroup, 7>,
                                            run_octet<Dot, kGroup, 8>};
  const uint32_t groups = group_count(m);
  for (uint32_t first = 0; first < in.tokens; first += kTokenChunk) {
    const uint32_t tokens = std::min(kTokenChunk, in.tokens - first);
    const std::byte* at = m.values + m.offsets[begin / 2];
    for (uint32_t panel = begin; panel < end; panel += 2) {
      for (uint32_t octet = 0; octet < 4; ++octet) {
        const OctetOut o{m.group_scales + size_t{panel / 2} * groups * 32 + 8 * octet, groups,
                         panel * kPanelRows + 8 * octet};
        const std::byte* next = at;
        for (uint32_t i = 0; i < tokens; i += kTokenTile) {
          const uint32_t token = first + i;
          next = kOctet[std::min(kTokenTile, tokens - i)](m, o, at, in.i8 + token * in.stride, in.stride,
                                                          in.scales + token, out + token * out_stride,
                                                          out_stride);
        }
        at = next;
      }
    }
  }
}

}  // namespace
}  // namespace filigree::linear

#define FILIGREE_I4_SLOTS_KERNELS(prefix, Dot)                                                           \
  size_t prefix##_i4_slots_workspace(const MatrixSpec&, uint32_t) { return 0; }                          \
  void prefix##_i4g32_slots(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out,  \
                            size_t out_stride, std::byte*) {                                             \
    run_slots<Dot, 32>(m, in, begin, end, out, out_stride);                                              \
  }                                                                                                      \
  void prefix##_i4g128_slots(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, \
                             size_t out_stride, std::byte*) {                                            \
    run_slots<Dot, 128>(m, in, begin, end, out, out_stride);                                             \
  }
