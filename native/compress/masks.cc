#include "compress/masks.h"

#include <algorithm>
#include <numeric>

#include "compress/rows.h"

namespace filigree {
namespace {

uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }

// Sums of runs of `block` scores, as scores of a matrix with fewer columns; what is left at the end of a row is a run of its own.
std::vector<float> block_scores(ThreadPool& pool, const float* scores, uint32_t rows, uint32_t cols,
                                uint32_t block) {
  const uint32_t runs = group_count(cols, block);
  std::vector<float> out(size_t{rows} * runs);
  share_rows(pool, rows, [&](uint32_t begin, uint32_t end) {
    for (uint32_t r = begin; r < end; ++r) {
      for (uint32_t c = 0; c < cols; ++c) out[size_t{r} * runs + c / block] += scores[size_t{r} * cols + c];
    }
  });
  return out;
}

size_t count_of(double share, size_t n) { return static_cast<size_t>(static_cast<double>(n) * share); }

void clear_dead(const std::vector<bool>& dead, uint32_t rows, uint32_t cols, Mask& mask) {
  for (uint32_t c = 0; c < cols; ++c) {
    if (!dead.empty() && dead[c])
      for (uint32_t r = 0; r < rows; ++r) mask[size_t{r} * cols + c] = 0;
  }
}

void choose_groups(ThreadPool& pool, const Pattern& pattern, const float* scores, uint32_t rows,
                   uint32_t cols, Mask& mask) {
  share_rows(pool, rows, [&](uint32_t begin, uint32_t end) {
    for (uint32_t r = begin; r < end; ++r) {
      for (uint32_t c = 0; c < cols; c += pattern.of) {
        const size_t at = size_t{r} * cols + c;
        choose_group(scores + at, std::min(pattern.of, cols - c), pattern.keep, mask.data() + at);
      }
    }
  });
}

// What both comparison groups share: all kept at first; N:M by itself, anything else by `unstructured(compared, runs)` over the scores of
// runs of pattern.block columns, `runs` a row; dead columns last.
template <class Unstructured>
void choose(ThreadPool& pool, const Pattern& pattern, const float* scores, uint32_t rows, uint32_t cols,
            const std::vector<bool>& dead, Mask& mask, Unstructured unstructured) {
  mask.assign(size_t{rows} * cols, 1);
  if (pattern.of > 0) {
    choose_groups(pool, pattern, scores, rows, cols, mask);
  } else if (pattern.block > 1) {
    unstructured(block_scores(pool, scores, rows, cols, pattern.block).data(),
                 group_count(cols, pattern.block));
  } else {
    unstructured(scores, cols);
  }
  clear_dead(dead, rows, cols, mask);
}

}  // namespace

float kth_smallest(ThreadPool& pool, const float* values, size_t n, size_t k) {
  // Two rounds of 16 bits: the bits of floats that are not negative order as the floats do.
  uint32_t prefix = 0;
  for (int round = 0; round < 2; ++round) {
    std::vector<std::vector<uint64_t>> counts(static_cast<size_t>(pool.size()));
    pool.run([&](int thread, int threads) {
      std::vector<uint64_t>& mine = counts[static_cast<size_t>(thread)];
      mine.assign(1 << 16, 0);
      const size_t begin = n * static_cast<size_t>(thread) / static_cast<size_t>(threads);
      const size_t end = n * static_cast<size_t>(thread + 1) / static_cast<size_t>(threads);
      for (size_t i = begin; i < end; ++i) {
        const uint32_t bits = bits_of(values[i]);
        if (round == 0) {
          ++mine[bits >> 16];
        } else if (bits >> 16 == prefix) {
          ++mine[bits & 0xffff];
        }
      }
    });
    uint32_t bin = 0;
    for (;; ++bin) {
      uint64_t here = 0;
      for (const auto& mine : counts) here += mine[bin];
      if (k < here || bin == 0xffff) break;
      k -= here;
    }
    prefix = round == 0 ? bin : prefix << 16 | bin;
  }
  return __builtin_bit_cast(float, prefix);
}

float kth_of_few(float* values, size_t n, size_t k) {
  std::nth_element(values, values + k, values + n);
  return values[k];
}

void choose_group(const float* scores, uint32_t n, uint32_t keep, uint8_t* out) {
  for (uint32_t i = 0; i < n; ++i) {
    uint32_t better = 0;
    for (uint32_t j = 0; j < n; ++j) better += scores[j] > scores[i] || (scores[j] == scores[i] && j < i);
    out[i] = better < keep;
  }
}

void choose_mask(ThreadPool& pool, const Pattern& pattern, double sparsity, const float* scores,
                 uint32_t rows, uint32_t cols, const std::vector<bool>& dead, Mask& mask) {
  choose(pool, pattern, scores, rows, cols, dead, mask, [&](const float* compared, uint32_t runs) {
    const size_t n = size_t{rows} * runs, count = count_of(sparsity, n);
    if (count == 0) return;
    const float limit = kth_smallest(pool, compared, n, std::min(count, n - 1));
    share_rows(pool, rows, [&](uint32_t begin, uint32_t end) {
      for (uint32_t r = begin; r < end; ++r)
        for (uint32_t c = 0; c < cols; ++c)
          mask[size_t{r} * cols + c] = compared[size_t{r} * runs + c / pattern.block] > limit;
    });
  });
}

void choose_mask_by_row(ThreadPool& pool, const Pattern& pattern, double sparsity, const float* scores,
                        uint32_t rows, uint32_t cols, const std::vector<bool>& dead, Mask& mask) {
  choose(pool, pattern, scores, rows, cols, dead, mask, [&](const float* compared, uint32_t runs) {
    const uint32_t block = pattern.block, count = static_cast<uint32_t>(count_of(sparsity, runs));
    share_rows(pool, count == 0 ? 0 : rows, [&](uint32_t begin, uint32_t end) {
      std::vector<uint32_t> order(runs);
      for (uint32_t r = begin; r < end; ++r) {
        const float* line = compared + size_t{r} * runs;
        std::iota(order.begin(), order.end(), 0u);
        std::nth_element(
            order.begin(), order.begin() + (count - 1), order.end(),
            [&](uint32_t a, uint32_t b) { return line[a] < line[b] || (line[a] == line[b] && a < b); });
        for (uint32_t i = 0; i < count; ++i) {
          const uint32_t first = order[i] * block;
          for (uint32_t c = first; c < std::min(cols, first + block); ++c) mask[size_t{r} * cols + c] = 0;
        }
      }
    });
  });
}

void apply_mask(ThreadPool& pool, const Mask& mask, DenseMatrix& weight) {
  share_rows(pool, weight.rows, [&](uint32_t begin, uint32_t end) {
    for (size_t i = size_t{begin} * weight.cols; i < size_t{end} * weight.cols; ++i)
      if (!mask[i]) weight.data()[i] = 0;
  });
}

}  // namespace filigree
