#include "compress/product.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/half.h"

namespace filigree {
namespace {

// A panel of b (kDepth x tile columns) stays in the first cache, a block of a (kRows x kDepth, twice that where there are rows enough
// for every thread) in the second.
constexpr size_t kDepth = 192, kRows = 144, kCols = 512;

// One number of an operand as the tiles want it; bf16 tiles take two neighbours along k together.
template <class T>
struct Plain {
  using Packed = T;
  static constexpr size_t together = 1;
  static T convert(T x) { return x; }
};
struct Halved {
  using Packed = uint16_t;
  static constexpr size_t together = 2;
  static uint16_t convert(float x) { return f32_to_bf16(x); }
};

// Packs [depth] x [extent] of an operand (along k by `deep`, across by `wide`) into panels of `width`, zero where it ends.
template <class Form, class T>
void pack_panels(const T* data, size_t deep, size_t wide, size_t depth, size_t extent, size_t width,
                 typename Form::Packed* out) {
  constexpr size_t kTogether = Form::together;
  const size_t padded = (depth + kTogether - 1) / kTogether * kTogether;
  for (size_t first = 0; first < extent; first += width) {
    const size_t have = std::min(width, extent - first);
    for (size_t p = 0; p < padded; p += kTogether) {
      for (size_t h = 0; h < kTogether; ++h) {
        const T* from = data + (p + h) * deep + first * wide;
        typename Form::Packed* to = out + p * width + h;
        if (p + h >= depth) {
          for (size_t i = 0; i < width; ++i) to[i * kTogether] = 0;
          continue;
        }
        if (wide == 1) {  // as a loop of its own it becomes vector moves
          for (size_t i = 0; i < have; ++i) to[i * kTogether] = Form::convert(from[i]);
        } else {
          for (size_t i = 0; i < have; ++i) to[i * kTogether] = Form::convert(from[i * wide]);
        }
        for (size_t i = have; i < width; ++i) to[i * kTogether] = 0;
      }
    }
    out += padded * width;
  }
}

bool beyond(Part part, size_t row, size_t rows, size_t col, size_t cols) {
  return (part == Part::upper && row >= col + cols) || (part == Part::lower && col >= row + rows);
}

template <class Form, class T, class Tile>
void blocked(ThreadPool& pool, const Tile& tile, size_t m, size_t n, size_t k, T alpha, Operand<T> a,
             Operand<T> b, T beta, T* c, size_t ldc, Part part) {
  using Packed = typename Form::Packed;
  const size_t col_blocks = (n + kCols - 1) / kCols;
  const auto blocks_of = [&](size_t step) { return (m + step - 1) / step; };
  const bool plenty = blocks_of(2 * kRows) * col_blocks >= 2 * static_cast<size_t>(pool.size());
  const size_t row_step = plenty ? 2 * kRows : kRows, row_blocks = blocks_of(row_step);
  std::atomic<size_t> next{0};
  const auto job = [&](int, int) {
    const auto whole = [](size_t extent, size_t width) { return (extent + width - 1) / width * width; };
    std::vector<Packed> left(whole(std::min(m, row_step), tile.rows) * kDepth),
        right(whole(std::min(n, kCols), tile.cols) * kDepth);
    T sums[kMaxGemmTile];
    for (size_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < row_blocks * col_blocks;) {
      const size_t row = task / col_blocks * row_step, col = task % col_blocks * kCols;
      const size_t rows = std::min(row_step, m - row), cols = std::min(kCols, n - col);
      if (beyond(part, row, rows, col, cols)) continue;
      for (size_t p = 0; p < k; p += kDepth) {
        const size_t depth = std::min(kDepth, k - p);
        const size_t steps = (depth + Form::together - 1) / Form::together;
        pack_panels<Form>(a.data + row * a.row + p * a.col, a.col, a.row, depth, rows, tile.rows,
                          left.data());
        pack_panels<Form>(b.data + p * b.row + col * b.col, b.row, b.col, depth, cols, tile.cols,
                          right.data());
        for (size_t j = 0; j < cols; j += tile.cols) {
          for (size_t i = 0; i < rows; i += tile.rows) {
            const size_t high = std::min<size_t>(tile.rows, rows - i),
                         wide = std::min<size_t>(tile.cols, cols - j);
            if (beyond(part, row + i, high, col + j, wide)) continue;
            tile.run(steps, left.data() + i * steps * Form::together,
                     right.data() + j * steps * Form::together, sums);
            for (size_t r = 0; r < high; ++r) {
              T* out = c + (row + i + r) * ldc + col + j;
              const T* sum = sums + r * tile.cols;
              if (p > 0 || beta == T{1}) {
                for (size_t x = 0; x < wide; ++x) out[x] += alpha * sum[x];
              } else if (beta == T{0}) {
                for (size_t x = 0; x < wide; ++x) out[x] = alpha * sum[x];
              } else {
                for (size_t x = 0; x < wide; ++x) out[x] = beta * out[x] + alpha * sum[x];
              }
            }
          }
        }
      }
    }
  };
  pool.run(static_cast<int>(std::min<size_t>(row_blocks * col_blocks, static_cast<size_t>(pool.size()))),
           job);
}

const GemmTile<float>& tile_of(const GemmOps& ops, float) { return ops.f32; }
const GemmTile<double>& tile_of(const GemmOps& ops, double) { return ops.f64; }

}  // namespace

template <class T>
void multiply(ThreadPool& pool, const GemmOps& ops, size_t m, size_t n, size_t k, T alpha, Operand<T> a,
              Operand<T> b, T beta, T* c, size_t ldc, Part part) {
  if (m == 0 || n == 0) return;
  blocked<Plain<T>>(pool, tile_of(ops, T{}), m, n, k, alpha, a, b, beta, c, ldc, part);
}

template void multiply(ThreadPool&, const GemmOps&, size_t, size_t, size_t, float, Operand<float>,
                       Operand<float>, float, float*, size_t, Part);
template void multiply(ThreadPool&, const GemmOps&, size_t, size_t, size_t, double, Operand<double>,
                       Operand<double>, double, double*, size_t, Part);

void add_gram(ThreadPool& pool, const GemmOps& ops, size_t rows, size_t n, const float* x, size_t stride,
              bool bf16, float* c) {
  const Operand<float> transposed{x, 1, stride}, plain{x, stride, 1};
  if (bf16 && ops.bf16.run != nullptr) {
    blocked<Halved>(pool, ops.bf16, n, n, rows, 1.0f, transposed, plain, 1.0f, c, n, Part::upper);
  } else {
    multiply(pool, ops, n, n, rows, 1.0f, transposed, plain, 1.0f, c, n, Part::upper);
  }
}

}  // namespace filigree
