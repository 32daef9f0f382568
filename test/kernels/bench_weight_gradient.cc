// filigree_weight_gradient_bench: what the gradient of a sparse matrix costs at its nonzeros alone (a sampled dense-dense product),
// for the table in models/recipes/README.md. No kernel of the product: it says what a trainer could gain.
//   --rows N --cols N --tokens N --zeros F --rounds N, one thread, AVX-512 or plain C++
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

// gradient[k] = sum over tokens of dy[row of k][token] * x[column of k][token]; 64 tokens of dy stay in registers for a whole row.
void at_nonzeros(const float* dy, const float* x, uint32_t rows, uint32_t tokens,
                 const std::vector<uint32_t>& start, const std::vector<uint32_t>& columns, float* gradient) {
  constexpr uint32_t kBlock = 256;
  for (uint32_t from = 0; from < tokens; from += kBlock) {
    for (uint32_t r = 0; r < rows; ++r) {
      const float* left = dy + size_t{r} * tokens + from;
#ifdef __AVX512F__
      __m512 held[kBlock / 16];
      for (uint32_t i = 0; i < kBlock / 16; ++i) held[i] = _mm512_loadu_ps(left + 16 * i);
#endif
      for (uint32_t k = start[r]; k < start[r + 1]; ++k) {
        const float* right = x + size_t{columns[k]} * tokens + from;
#ifdef __AVX512F__
        __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (uint32_t i = 0; i < kBlock / 16; ++i)
          sum[i % 4] = _mm512_fmadd_ps(held[i], _mm512_loadu_ps(right + 16 * i), sum[i % 4]);
        const float total =
            _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
#else
        float total = 0;
        for (uint32_t i = 0; i < kBlock; ++i) total += left[i] * right[i];
#endif
        gradient[k] = from == 0 ? total : gradient[k] + total;
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  uint32_t rows = 1536, cols = 576, tokens = 512;
  int rounds = 15;
  double zeros = 0.7;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string key = argv[i];
    if (key == "--rows") rows = static_cast<uint32_t>(std::atoi(argv[i + 1]));
    if (key == "--cols") cols = static_cast<uint32_t>(std::atoi(argv[i + 1]));
    if (key == "--tokens") tokens = static_cast<uint32_t>(std::atoi(argv[i + 1])) / 256 * 256;
    if (key == "--rounds") rounds = std::atoi(argv[i + 1]);
    if (key == "--zeros") zeros = std::atof(argv[i + 1]);
  }
  std::mt19937 random(1);
  std::uniform_real_distribution<float> value(-1, 1);
  std::vector<float> dy(size_t{rows} * tokens), x(size_t{cols} * tokens);
  for (float& v : dy) v = value(random);
  for (float& v : x) v = value(random);
  std::vector<uint32_t> start{0}, columns;
  std::bernoulli_distribution kept(1 - zeros);
  for (uint32_t r = 0; r < rows; ++r) {
    for (uint32_t c = 0; c < cols; ++c) {
      if (kept(random)) columns.push_back(c);
    }
    start.push_back(static_cast<uint32_t>(columns.size()));
  }
  std::vector<float> gradient(columns.size());
  double best = 1e9;
  for (int i = 0; i < rounds; ++i) {
    const auto began = std::chrono::steady_clock::now();
    at_nonzeros(dy.data(), x.data(), rows, tokens, start, columns, gradient.data());
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
  }
  double worst = 0;
  for (uint32_t r = 0; r < rows; r += 97) {
    for (uint32_t k = start[r]; k < start[r + 1]; k += 13) {
      double exact = 0;
      for (uint32_t t = 0; t < tokens; ++t)
        exact += double{dy[size_t{r} * tokens + t]} * x[size_t{columns[k]} * tokens + t];
      worst = std::max(worst, std::abs(exact - gradient[k]));
    }
  }
  std::printf("%u x %u, %.0f %% zeros, %u tokens: %.3f ms, %.1f GMAC/s, error %.1e\n", rows, cols,
              zeros * 100, tokens, best * 1e3, static_cast<double>(columns.size()) * tokens / best * 1e-9,
              worst);
  return worst < 1e-3 ? 0 : 1;
}
