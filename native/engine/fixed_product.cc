#include "engine/fixed_product.h"

#include <algorithm>
#include <atomic>

#include "formats/tensor_source.h"

namespace filigree {
namespace {

// Columns of one task: of two interleaved panels of 16 rows (interleaved_rows.h), or twice that where tasks are plenty.
constexpr size_t kRun = 32;
// Rows of one task of a Gram matrix, and columns: its sums stay in the second-level cache from block to block.
constexpr size_t kGramRows = 256, kGramCols = 64;

// work(task, thread) for every task, dealt out as threads become free.
template <class Work>
void deal(ThreadPool& pool, size_t tasks, const Work& work) {
  std::atomic<size_t> next{0};
  const auto job = [&](int thread, int) {
    for (size_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) work(task, thread);
  };
  pool.run(static_cast<int>(std::min<size_t>(tasks, static_cast<size_t>(pool.size()))), job);
}

// The tile at c, of which `high` rows and `wide` columns are there.
void run_tile(const FixedGemm& gemm, size_t pairs, const uint32_t* a, size_t a_step, const uint32_t* b,
              const float* a_scales, const float* b_scales, bool add, size_t high, size_t wide, float* c,
              size_t stride) {
  if (high >= gemm.rows && wide >= gemm.cols)
    return gemm.run(pairs, a, a_step, b, a_scales, b_scales, add, c, stride);
  float edge[kMaxGemmTile] = {};
  high = std::min<size_t>(high, gemm.rows), wide = std::min<size_t>(wide, gemm.cols);
  for (size_t r = 0; add && r < high; ++r) std::copy_n(c + r * stride, wide, edge + r * gemm.cols);
  gemm.run(pairs, a, a_step, b, a_scales, b_scales, add, edge, gemm.cols);
  for (size_t r = 0; r < high; ++r) std::copy_n(edge + r * gemm.cols, wide, c + r * stride);
}

}  // namespace

void FixedPanels::resize(size_t lines, size_t depth, size_t width) {
  depth_ = depth, width_ = width;
  panels_ = (lines + width - 1) / width;
  blocks_ = std::max<size_t>(1, (depth + kFixedDepth - 1) / kFixedDepth);
  step_ = ((depth + blocks_ - 1) / blocks_ + 1) / 2 * 2;
  const size_t bytes = blocks_ * panels_ * (step_ / 2) * width * sizeof(uint32_t);
  if (words_.size() < bytes) words_ = AlignedBuffer(bytes);
  scales_.resize(blocks_ * panels_ * width);
}

FixedProduct::FixedProduct(const FixedGemm& gemm, ThreadPool& pool,
                           std::initializer_list<const RowSource*> parts)
    : gemm_(gemm), in_(static_cast<uint32_t>((*parts.begin())->cols())) {
  for (const RowSource* part : parts) out_ += static_cast<uint32_t>(part->rows());
  weights_.resize(out_, in_, gemm.cols);
  deal(pool, weights_.panels(), [&](size_t p, int) {
    const size_t first = p * gemm_.cols, count = std::min<size_t>(gemm_.cols, out_ - first);
    std::vector<float> lines(count * in_);
    size_t at = 0;  // where the part begins in the matrix
    for (const RowSource* part : parts) {
      const size_t begin = std::max(first, at), end = std::min(first + count, at + part->rows());
      if (begin < end) part->read_f32(begin - at, end - begin, lines.data() + (begin - first) * in_);
      at += part->rows();
    }
    for (size_t b = 0; b < weights_.blocks(); ++b)
      gemm_.pack_rows(lines.data() + weights_.begin(b), in_, count, weights_.depth(b), gemm_.cols,
                      weights_.panel(b, p), weights_.scales(b, p));
  });
}

void FixedProduct::run(ThreadPool& pool, const float* x, size_t stride, uint32_t rows, float* out,
                       size_t out_stride, FunctionRef<void(uint32_t, uint32_t, int)> finish) {
  input_.resize(rows, in_, gemm_.rows);
  deal(pool, input_.panels(), [&](size_t p, int) {
    const size_t first = p * gemm_.rows;
    for (size_t b = 0; b < input_.blocks(); ++b)
      gemm_.pack_rows(x + first * stride + input_.begin(b), stride,
                      std::min<size_t>(gemm_.rows, rows - first), input_.depth(b), gemm_.rows,
                      input_.panel(b, p), input_.scales(b, p));
  });
  const size_t run = out_ >= 8 * kRun * static_cast<size_t>(pool.size()) ? 2 * kRun : kRun;
  deal(pool, (out_ + run - 1) / run, [&](size_t task, int thread) {
    const size_t begin = task * run, end = std::min<size_t>(out_, begin + run);
    for (size_t b = 0; b < input_.blocks(); ++b) {
      const size_t pairs = (input_.depth(b) + 1) / 2;
      for (size_t col = begin; col < end; col += gemm_.cols) {
        const uint32_t* right = weights_.panel(b, col / gemm_.cols);
        const float* scales = weights_.scales(b, col / gemm_.cols);
        for (size_t p = 0; p < input_.panels(); ++p) {
          const size_t row = p * gemm_.rows;
          run_tile(gemm_, pairs, input_.panel(b, p), gemm_.rows, right, input_.scales(b, p), scales, b > 0,
                   rows - row, end - col, out + row * out_stride + col, out_stride);
        }
      }
    }
    finish(static_cast<uint32_t>(begin), static_cast<uint32_t>(end), thread);
  });
}

void add_fixed_gram(ThreadPool& pool, const FixedGemm& gemm, size_t rows, size_t n, const float* x,
                    size_t stride, FixedPanels& panels, float* c, float* largest) {
  if (rows == 0) return;
  const size_t width = gemm.cols;
  panels.resize(n, rows, width);
  deal(pool, panels.panels(), [&](size_t p, int) {
    const size_t first = p * width;
    for (size_t b = 0; b < panels.blocks(); ++b)
      gemm.pack_columns(x + panels.begin(b) * stride + first, stride, std::min(width, n - first),
                        panels.depth(b), panels.panel(b, p), panels.scales(b, p), largest + first);
  });
  const size_t col_tasks = (n + kGramCols - 1) / kGramCols, row_tasks = (n + kGramRows - 1) / kGramRows;
  deal(pool, col_tasks * row_tasks, [&](size_t task, int) {
    const size_t first_row = task / col_tasks * kGramRows, first_col = task % col_tasks * kGramCols;
    const size_t end_col = std::min(n, first_col + kGramCols);
    for (size_t b = 0; b < panels.blocks(); ++b) {
      const size_t pairs = (panels.depth(b) + 1) / 2;
      for (size_t col = first_col; col < end_col; col += width) {
        const uint32_t* right = panels.panel(b, col / width);
        const float* scales = panels.scales(b, col / width);
        // Tiles wholly below the diagonal are nobody's.
        const size_t end_row = std::min({n, first_row + kGramRows, col + width});
        for (size_t row = first_row; row < end_row; row += gemm.rows) {
          run_tile(gemm, pairs, panels.panel(b, row / width) + row % width, width, right,
                   panels.scales(b, row / width) + row % width, scales, true, n - row, n - col,
                   c + row * n + col, n);
        }
      }
    }
  });
}

}  // namespace filigree
