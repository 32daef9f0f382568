#pragma once
// Helpers of the 256-bit x86 kernels (AVX2, AVX-VNNI). Everything here has internal linkage: the header is compiled for more
// than one instruction set, and none of it may be shared between them.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/linear/linear.h"

#define FILIGREE_INLINE __attribute__((always_inline)) inline

namespace filigree::linear {
namespace {

FILIGREE_INLINE __m128i load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
FILIGREE_INLINE __m256i load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
FILIGREE_INLINE void store256(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
// One register from two places: low lane from a, high lane from b.
FILIGREE_INLINE __m256i load_lanes(const void* a, const void* b) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(load128(a)), load128(b), 1);
}
FILIGREE_INLINE __m256i broadcast4(const void* p) {
  int32_t word;
  std::memcpy(&word, p, sizeof(word));
  return _mm256_set1_epi32(word);
}
FILIGREE_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

template <class T>
FILIGREE_INLINE T load_as(const void* p) {
  T v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

// Writes rows [row, row + 8) of one token, those below `rows` only.
FILIGREE_INLINE void store_rows(float* out, uint32_t row, uint32_t rows, __m256 v) {
  if (row + 8 <= rows) {
    _mm256_storeu_ps(out + row, v);
  } else if (row < rows) {
    float all[8];
    _mm256_storeu_ps(all, v);
    std::memcpy(out + row, all, (rows - row) * sizeof(float));
  }
}

constexpr size_t align64(size_t n) { return (n + 63) / 64 * 64; }

}  // namespace
}  // namespace filigree::linear
