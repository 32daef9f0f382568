#include "kernels/linear/measure.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/linear/shares.h"

namespace filigree::linear {
Timing measure(const Matrix& m, const Variant& variant, uint32_t tokens, ThreadPool& threads, int rounds) {
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
  std::vector<Share> shares;
  for (int t = 0; t < threads.size(); ++t) shares.push_back(share_of(m, t, threads.size()));
  std::vector<double> seconds;
  for (int round = 0; round <= std::max(rounds, 1); ++round) {
    const auto begin = std::chrono::steady_clock::now();
    std::atomic<uint32_t> next{0};
    threads.run([&](int thread, int) {
      shares[static_cast<size_t>(thread)].take(next, [&](uint32_t panel, uint32_t end) {
        variant.run(m, in, panel, end, out.as<float>(), m.rows,
                    workspaces[static_cast<size_t>(thread)].data());
      });
    });
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    if (round > 0) seconds.push_back(taken.count());
  }
  std::ranges::sort(seconds);
  return {seconds[seconds.size() / 2], seconds[0]};
}

}  // namespace filigree::linear
