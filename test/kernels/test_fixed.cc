// Products in block floating point: codes and scales against their definition, sums against exact integers and f64, and every variant's
// bits against the scalar one's.
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "compress/statistics.h"
#include "compress_inputs.h"
#include "engine/fixed_product.h"
#include "formats/tensor_source.h"
#include "harness.h"

namespace filigree::test {
namespace {

constexpr const char* kIsas = "scalar avx2 avxvnni avx512 avx512vnni neon";

class Rows final : public RowSource {
 public:
  Rows(const float* values, uint64_t rows, uint64_t cols) : values_(values), rows_(rows), cols_(cols) {}
  uint64_t rows() const override { return rows_; }
  uint64_t cols() const override { return cols_; }
  void read_f32(uint64_t row, uint64_t n, float* out) const override {
    std::copy_n(values_ + row * cols_, n * cols_, out);
  }

 private:
  const float* values_;
  uint64_t rows_, cols_;
};

int64_t code_at(const uint32_t* panel, size_t width, size_t line, size_t p) {
  return static_cast<int16_t>(panel[p / 2 * width + line] >> (p % 2 == 0 ? 0 : 16));
}

double norm_of(const float* x, size_t stride, size_t depth) {
  double sum = 0;
  for (size_t p = 0; p < depth; ++p) sum += double{x[p * stride]} * x[p * stride];
  return std::sqrt(sum);
}

// Sums over blocks of what rounding two lines to their codes can make of their product, and f32 of the sum: fixed.h, with room for the
// last bits of scales.
double bound(const float* x, size_t x_stride, const float* y, size_t y_stride, size_t depth, size_t step) {
  double total = 0, size = 0;
  for (size_t first = 0; first < depth; first += step) {
    const size_t n = std::min(step, depth - first);
    const double nx = norm_of(x + first * x_stride, x_stride, n),
                 ny = norm_of(y + first * y_stride, y_stride, n);
    total += 1.01 * nx * ny * (std::sqrt(static_cast<double>(n)) / double{kFixedLargest} + 4e-7);
    size += nx * ny;
  }
  return total + size * 1.2e-7 * static_cast<double>(depth / step + 2);
}

size_t step_of(size_t depth) {
  FixedPanels panels;
  panels.resize(1, depth, 1);
  return panels.blocks() == 1 ? depth : panels.begin(1);
}

// Lines that try the bounds: as they come, one element that is nearly all, all alike, tiny, zero.
std::vector<float> hard_lines(Random& random, size_t lines, size_t depth) {
  std::vector<float> x(lines * depth);
  for (size_t i = 0; i < lines; ++i) {
    for (size_t p = 0; p < depth; ++p) {
      float& value = x[i * depth + p];
      value = random.normal();
      if (i % 5 == 1 && p == depth / 2) value = 1e4f;
      if (i % 5 == 2) value = -3.0f;
      if (i % 5 == 3) value *= 1e-24f;
      if (i % 5 == 4) value = i % 2 == 0 ? 0.0f : random.normal() * 1e6f;
    }
  }
  return x;
}

}  // namespace

FILIGREE_ISA_TEST(fixed_panels_hold_the_codes_of_their_definition, kIsas) {
  const FixedGemm gemm = select_gemm(cpu).fixed, scalar = select_gemm({}).fixed;
  Random random(31);
  for (const size_t depth : {1u, 2u, 7u, 16u, 33u, 255u, 256u}) {
    for (const size_t count : {size_t{1}, size_t{gemm.cols - 1}, size_t{gemm.cols}}) {
      const std::vector<float> x = hard_lines(random, count, depth);
      std::vector<float> columns(x.size()), largest(count, 0.5f);
      for (size_t i = 0; i < count; ++i)
        for (size_t p = 0; p < depth; ++p) columns[p * count + i] = x[i * depth + p];
      const size_t width = gemm.cols, words = (depth + 1) / 2 * width;
      for (const bool rows : {true, false}) {
        std::vector<uint32_t> panel(words, 0xAAAAAAAA);
        std::vector<float> scales(width, -1.0f);
        if (rows) {
          gemm.pack_rows(x.data(), depth, count, depth, width, panel.data(), scales.data());
          std::vector<uint32_t> other(words);
          std::vector<float> other_scales(width);
          scalar.pack_rows(x.data(), depth, count, depth, width, other.data(), other_scales.data());
          check(panel == other && scales == other_scales, "bits of the scalar variant");
        } else {
          gemm.pack_columns(columns.data(), count, count, depth, panel.data(), scales.data(), largest.data());
        }
        for (size_t i = 0; i < width; ++i) {
          int64_t squares = 0;
          double most = 0;
          for (size_t p = 0; p < 2 * ((depth + 1) / 2); ++p) {
            const int64_t code = code_at(panel.data(), width, i, p);
            squares += code * code;
            if (i >= count || p >= depth) {
              check_equal(code, int64_t{0}, "padding");
              continue;
            }
            const double value = x[i * depth + p];
            most = std::max(most, std::fabs(value));
            check_near(double{scales[i]} * static_cast<double>(code), value,
                       0.503 * double{scales[i]} + 1e-37, "within half a step");
          }
          check(squares < int64_t{1} << 31, "no sum of products leaves 32 bits");
          if (i >= count) {
            check(scales[i] == 0, "no line, no scale");
            continue;
          }
          if (!rows) check(largest[i] == std::max(0.5f, static_cast<float>(most)), "largest");
          const double norm = norm_of(x.data() + i * depth, 1, depth);
          if (norm > 1e-14) {
            const double scale = std::max(norm / double{kFixedNorm}, most / double{kFixedLargest});
            check_near(scales[i], scale, 4e-7 * scale, "scale");
          }
        }
      }
    }
  }
}

FILIGREE_ISA_TEST(what_is_not_finite_stays_so_in_block_floating_point, kIsas) {
  const FixedGemm gemm = select_gemm(cpu).fixed;
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> x(40, 1.0f), scales(gemm.cols), largest(2);
    x[13] = bad;
    std::vector<uint32_t> panel(20 * size_t{gemm.cols});
    gemm.pack_rows(x.data(), 20, 2, 20, gemm.cols, panel.data(), scales.data());
    check(std::isnan(scales[0]) && scales[1] > 0, "row");
    gemm.pack_columns(x.data(), 2, 2, 20, panel.data(), scales.data(), largest.data());
    check(scales[0] > 0 && std::isnan(scales[1]), "column");
  }
}

FILIGREE_ISA_TEST(fixed_tiles_add_exact_integers, kIsas) {
  const FixedGemm gemm = select_gemm(cpu).fixed;
  Random random(32);
  for (const size_t pairs : {0u, 1u, 5u, 128u}) {
    for (const bool add : {false, true}) {
      const size_t a_step = gemm.rows + 3, stride = gemm.cols + 5;
      // One pair as large as it can be, the others small enough for sums below 2^31.
      const auto codes = [&](size_t words) {
        std::vector<uint32_t> out(words);
        for (uint32_t& word : out)
          word = ((random.below(4001) - 2000) & 0xFFFFu) | (random.below(4001) - 2000) << 16;
        return out;
      };
      std::vector<uint32_t> a = codes(pairs * a_step), b = codes(pairs * gemm.cols);
      for (size_t i = 0; pairs > 0 && i < a_step; ++i) a[i] = 0x7FFE8002u;  // 32766 and -32766
      for (size_t j = 0; pairs > 0 && j < gemm.cols; ++j) b[j] = 0x00017FFEu;
      const std::vector<float> a_scales = noise(random, gemm.rows), b_scales = noise(random, gemm.cols);
      std::vector<float> c = noise(random, gemm.rows * stride);
      const std::vector<float> before = c;
      gemm.run(pairs, a.data(), a_step, b.data(), a_scales.data(), b_scales.data(), add, c.data(), stride);
      for (size_t i = 0; i < gemm.rows; ++i) {
        for (size_t j = 0; j < stride; ++j) {
          const float was = before[i * stride + j];
          if (j >= gemm.cols) {
            check(c[i * stride + j] == was, "untouched");
            continue;
          }
          int64_t sum = 0;
          for (size_t p = 0; p < 2 * pairs; ++p)
            sum += code_at(a.data(), a_step, i, p) * code_at(b.data(), gemm.cols, j, p);
          const float expected = std::fma(static_cast<float>(static_cast<int32_t>(sum)),
                                          a_scales[i] * b_scales[j], add ? was : 0.0f);
          check(c[i * stride + j] == expected, "bits");
        }
      }
    }
  }
}

FILIGREE_ISA_TEST(fixed_products_are_within_their_bound_of_f64, kIsas) {
  const GemmOps ops = select_gemm(cpu), scalar = select_gemm({});
  Random random(33);
  for (const auto& [rows, in, first, second] :
       {std::array<uint32_t, 4>{1, 1, 1, 0}, {5, 37, 33, 7}, {21, 300, 70, 64}, {70, 576, 96, 100}}) {
    const uint32_t out = first + second, stride = in + 3, out_stride = out + 2;
    const std::vector<float> weight = hard_lines(random, out, in);
    std::vector<float> x(size_t{rows} * stride), y(size_t{rows} * out_stride, 7.0f), again = y, plain = y;
    const std::vector<float> lines = hard_lines(random, rows, in);
    for (uint32_t r = 0; r < rows; ++r)
      std::copy_n(lines.data() + size_t{r} * in, in, x.data() + size_t{r} * stride);
    const Rows top(weight.data(), first, in), bottom(weight.data() + size_t{first} * in, second, in);
    const auto multiply = [&](const FixedGemm& gemm, int threads, std::vector<float>& to) {
      ThreadPool pool(threads);
      FixedProduct product(gemm, pool, {&top, &bottom});
      check_equal(product.out(), out, "rows of both parts");
      std::vector<std::atomic<int>> finished(out);
      product.run(pool, x.data(), stride, rows, to.data(), out_stride,
                  [&](uint32_t begin, uint32_t end, int thread) {
                    check(thread < threads && begin % 32 == 0, "runs");
                    for (uint32_t o = begin; o < end; ++o) finished[o].fetch_add(1);
                  });
      for (const std::atomic<int>& count : finished) check_equal(count.load(), 1, "finished once");
    };
    multiply(ops.fixed, 3, y);
    multiply(ops.fixed, 1, again);
    multiply(scalar.fixed, 2, plain);
    check(y == again, "threads do not matter");
    check(y == plain, "bits of the scalar variant");
    for (uint32_t r = 0; r < rows; ++r) {
      for (uint32_t o = 0; o < out; ++o) {
        double sum = 0;
        const float *a = x.data() + size_t{r} * stride, *w = weight.data() + size_t{o} * in;
        for (uint32_t k = 0; k < in; ++k) sum += double{a[k]} * w[k];
        check_near(y[size_t{r} * out_stride + o], sum, bound(a, 1, w, 1, in, step_of(in)) + 1e-36, "product");
      }
      check(y[size_t{r} * out_stride + out] == 7.0f, "nothing beside");
    }
  }
}

FILIGREE_ISA_TEST(fixed_gram_is_within_its_bound_of_f64, kIsas) {
  const GemmOps ops = select_gemm(cpu), scalar = select_gemm({});
  Random random(34);
  for (const auto& [rows, n] : {std::array<uint32_t, 2>{1, 1}, {201, 150}, {530, 300}}) {
    const std::vector<float> x = inputs_of(random, rows, n);
    const auto gram = [&](const FixedGemm& gemm, int threads, std::vector<float>& largest) {
      ThreadPool pool(threads);
      FixedPanels panels;
      std::vector<float> c(size_t{n} * n, 1.0f);
      add_fixed_gram(pool, gemm, rows, n, x.data(), n, panels, c.data(), largest.data());
      for (uint32_t i = 0; i < n; ++i) std::fill_n(c.data() + size_t{i} * n, i, 0.0f);
      return c;
    };
    std::vector<float> largest(n), others(n);
    const std::vector<float> c = gram(ops.fixed, 3, largest);
    check(c == gram(ops.fixed, 1, others), "threads do not matter");
    check(c == gram(scalar.fixed, 2, others), "bits of the scalar variant");
    for (uint32_t i = 0; i < n; ++i) {
      float most = 0;
      for (uint32_t r = 0; r < rows; ++r) most = std::max(most, std::fabs(x[size_t{r} * n + i]));
      check(largest[i] == most, "largest");
      for (uint32_t j = i; j < n; ++j) {
        double sum = 1;
        for (uint32_t r = 0; r < rows; ++r) sum += double{x[size_t{r} * n + i]} * x[size_t{r} * n + j];
        check_near(c[size_t{i} * n + j], sum,
                   bound(x.data() + i, n, x.data() + j, n, rows, step_of(rows)) + 2e-7, "gram");
      }
    }
  }
}

FILIGREE_TEST(statistics_in_block_floating_point_are_those_of_f32) {
  Random random(35);
  ThreadPool pool(2);
  const GemmOps ops = select_gemm(detect_cpu());
  const uint32_t rows = 700, n = 130;
  const std::vector<float> x = inputs_of(random, rows, n);
  Statistics plain(n), fixed(n);
  for (Statistics* s : {&plain, &fixed}) {
    const PassPrecision precision = s == &fixed ? PassPrecision::i16 : PassPrecision::f32;
    s->add(pool, ops, x.data(), n, 512, precision);
    s->add(pool, ops, x.data() + size_t{512} * n, n, rows - 512, precision);
    s->finish();
  }
  check(plain.largest() == fixed.largest(), "largest");
  for (uint32_t i = 0; i < n; ++i) {
    for (uint32_t j = 0; j < n; ++j) {
      const double size =
          std::sqrt(double{plain.hessian()[size_t{i} * n + i]} * plain.hessian()[size_t{j} * n + j]);
      check_near(fixed.hessian()[size_t{i} * n + j], plain.hessian()[size_t{i} * n + j], 4e-5 * size,
                 "hessian");
      check(fixed.hessian()[size_t{i} * n + j] == fixed.hessian()[size_t{j} * n + i], "symmetric");
    }
  }
}

}  // namespace filigree::test
