#pragma once
// i8 in the layout slots8 on 256-bit registers, once for AVX2 and once for AVX-VNNI. A Dot has kFlip and kBias as in avx2_i8.h and
// Weights load(codes); dot(acc, weights, x) += codes . x.
#include "kernels/linear/avx2_common.h"
#include "kernels/linear/slots.h"

namespace filigree::linear {
namespace {

constexpr uint32_t kTokenTile = 8;    // 8 accumulators, codes, their magnitudes, places and a window
constexpr uint32_t kTokenChunk = 64;  // tokens whose activations stay in the second-level cache
constexpr size_t kAhead = 1536;

// Bytes between tokens in the workspace: an odd number of cache lines, as powers of two would share few sets of the cache.
constexpr size_t token_stride(const MatrixSpec& m) { return last_window(m.cols) + kWindow + 192; }

template <class Dot>
void copy_tokens(const Matrix& m, const int8_t* x, size_t stride, uint32_t tokens, uint8_t* out) {
  const size_t bytes = last_window(m.cols) + kWindow;
  for (uint32_t i = 0; i < tokens; ++i) {
    for (size_t k = 0; k < bytes; k += 32) {
      store256(
          out + i * token_stride(m) + k,
          _mm256_xor_si256(load256(x + i * stride + k), _mm256_set1_epi32(static_cast<int>(Dot::kFlip))));
    }
  }
}

// One octet for TB tokens `stride` bytes apart; sums are rows row..row+7.
template <class Dot, int TB>
void run_octet(const Matrix& m, const std::byte* pair, uint32_t pairs, const uint8_t* x, size_t stride,
               const float* scales, uint32_t row, float* out, size_t out_stride) {
  const __m256i low_nibble = _mm256_set1_epi8(15);
  // A single token gets two chains.
  __m256i acc[TB == 1 ? 2 : TB];
#pragma GCC unroll 8
  for (int i = 0; i < (TB == 1 ? 2 : TB); ++i) acc[i] = _mm256_setzero_si256();
  for (const std::byte* end = pair + pairs * kSlotPairBytes; pair < end; pair += kSlotPairBytes) {
    prefetch(pair + kAhead);
    prefetch(pair + kAhead + 64);
    const __m256i places = load256(pair + kSlotPlaces);
#pragma GCC unroll 2
    for (int step = 0; step < 2; ++step) {
      const auto w = Dot::load(load256(pair + 32 * step));
      const __m256i place = _mm256_and_si256(step == 0 ? places : _mm256_srli_epi16(places, 4), low_nibble);
      x += static_cast<uint8_t>(pair[kSlotMoves + step]);
#pragma GCC unroll 8
      for (int i = 0; i < TB; ++i) {
        const __m256i window = _mm256_broadcastsi128_si256(load128(x + i * stride));
        __m256i& a = acc[TB == 1 ? step : i];
        a = Dot::dot(a, w, _mm256_shuffle_epi8(window, place));
        __asm__("" : "+x"(a));  // one register from step to step
      }
    }
  }
  if (TB == 1) acc[0] = _mm256_add_epi32(acc[0], acc[TB == 1 ? 1 : 0]);
#pragma GCC unroll 8
  for (int i = 0; i < TB; ++i) {
    __m256i sum = acc[i];
    if (Dot::kBias != 0) {
      sum = _mm256_sub_epi32(sum,
                             _mm256_mullo_epi32(load256(m.code_sums + row), _mm256_set1_epi32(Dot::kBias)));
    }
    const __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(m.row_scales + row));
    store_rows(out + i * out_stride, row, m.rows, _mm256_mul_ps(scaled, _mm256_set1_ps(scales[i])));
  }
}

template <class Dot>
void run_slots(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, size_t out_stride,
               std::byte* workspace) {
  using Octet = void (*)(const Matrix&, const std::byte*, uint32_t, const uint8_t*, size_t, const float*,
                         uint32_t, float*, size_t);
  constexpr Octet kOctet[kTokenTile + 1] = {nullptr,           run_octet<Dot, 1>, run_octet<Dot, 2>,
                                            run_octet<Dot, 3>, run_octet<Dot, 4>, run_octet<Dot, 5>,
                                            run_octet<Dot, 6>, run_octet<Dot, 7>, run_octet<Dot, 8>};
  uint8_t* x = reinterpret_cast<uint8_t*>(workspace);
  const size_t stride = token_stride(m);
  for (uint32_t first = 0; first < in.tokens; first += kTokenChunk) {
    const uint32_t tokens = std::min(kTokenChunk, in.tokens - first);
    copy_tokens<Dot>(m, in.i8 + first * in.stride, in.stride, tokens, x);
    for (uint32_t panel = begin; panel < end; ++panel) {
      const std::byte* stream = m.values + m.offsets[panel];
      const std::byte* pair = stream + kSlotHeaderBytes;
      for (uint32_t octet = 0; octet < 2; ++octet) {
        const uint32_t pairs = load_as<uint32_t>(stream + 4 * octet);
        for (uint32_t i = 0; i < tokens; i += kTokenTile) {
          kOctet[std::min(kTokenTile, tokens - i)](m, pair, pairs, x + i * stride, stride,
                                                   in.scales + first + i, panel * kPanelRows + 8 * octet,
                                                   out + (first + i) * out_stride, out_stride);
        }
        pair += pairs * kSlotPairBytes;
      }
    }
  }
}

}  // namespace
}  // namespace filigree::linear

#define FILIGREE_SLOTS_KERNEL(prefix, Dot)                                                           \
  size_t prefix##_i8_slots_workspace(const MatrixSpec& m, uint32_t tokens) {                         \
    return align64(std::min(tokens, kTokenChunk) * token_stride(m));                                 \
  }                                                                                                  \
  void prefix##_i8_slots(const Matrix& m, const Input& in, uint32_t begin, uint32_t end, float* out, \
                         size_t out_stride, std::byte* workspace) {                                  \
    run_slots<Dot>(m, in, begin, end, out, out_stride, workspace);                                   \
  }
