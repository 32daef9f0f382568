#include "kernels/linear/measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"

namespace filigree::linear {
namespace {

template <class Body>
double median_seconds(int rounds, const Body& body) {
  std::vector<double> seconds;
  body();
  for (int i = 0; i < std::max(rounds, 1); ++i) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + static_cast<ptrdiff_t>(seconds.size() / 2), seconds.end());
  return seconds[seconds.size() / 2];
}

uint64_t read_all(const std::byte* data, size_t bytes, size_t ahead) {
  uint64_t sum[8] = {};
  for (size_t i = 0; i + 64 <= bytes; i += 64) {
    __builtin_prefetch(data + i + ahead);
    uint64_t line[8];
    std::memcpy(line, data + i, 64);
    for (int j = 0; j < 8; ++j) sum[j] ^= line[j];
  }
  return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

}  // namespace

double measure(const Matrix& m, const Variant& variant, uint32_t tokens, ThreadPool& threads, int rounds) {
  const size_t stride = (size_t{m.cols} + kInputPadding - 1) / kInputPadding * kInputPadding + 64;
  const size_t groups = std::max<size_t>(group_count(m), 1);
  std::vector<float> f32(stride * tokens), scales(tokens, 0.01f);
  std::vector<uint16_t> bf16(stride * tokens);
  std::vector<int8_t> i8(stride * tokens);
  std::vector<int32_t> sums(groups * tokens);
  uint32_t state = 1;
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t k = 0; k < m.cols; ++k) {
      state = state * 1664525u + 1013904223u;
      const size_t e = t * stride + k;
      i8[e] = static_cast<int8_t>(static_cast<int>(state >> 24) % 127);
      f32[e] = static_cast<float>(i8[e]) * 0.01f;
      bf16[e] = static_cast<uint16_t>(0x3c00 | (state >> 24));
      if (group_size(m.format) != 0) sums[t * groups + k / group_size(m.format)] += i8[e];
    }
  }
  const Input in{tokens, stride, f32.data(), bf16.data(), i8.data(), scales.data(), sums.data(), groups};
  AlignedBuffer out(size_t{m.rows} * tokens * sizeof(float));
  std::vector<AlignedBuffer> workspaces;
  for (int t = 0; t < threads.size(); ++t) workspaces.emplace_back(variant.workspace(m, tokens) + 64);
  return median_seconds(rounds, [&] {
    threads.run([&](int thread, int count) {
      variant.run(m, in, split_panels(m, thread, count), split_panels(m, thread + 1, count), out.as<float>(), m.rows,
                  workspaces[static_cast<size_t>(thread)].data());
    });
  });
}

double measure_read_bandwidth(ThreadPool& threads, size_t bytes, int rounds) {
  AlignedBuffer data(bytes);
  std::atomic<uint64_t> sink{0};
  const auto part = [&](int thread, int count) { return bytes / 64 * static_cast<size_t>(thread) / static_cast<size_t>(count) * 64; };
  threads.run([&](int t, int n) { std::memset(data.data() + part(t, n), 1, part(t + 1, n) - part(t, n)); });
  double best = 0.0;
  for (size_t ahead : {size_t{0}, size_t{2048}, size_t{4096}, size_t{8192}}) {
    const double seconds = median_seconds(rounds, [&] {
      threads.run([&](int t, int n) { sink ^= read_all(data.data() + part(t, n), part(t + 1, n) - part(t, n), ahead); });
    });
    best = std::max(best, static_cast<double>(bytes) / seconds);
  }
  return best;
}

}  // namespace filigree::linear
