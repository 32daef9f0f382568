#include "compress/sweep.h"

#include <algorithm>
#include <cmath>

#include "base/half.h"
#include "compress/masks.h"
#include "compress/rows.h"
#include "formats/quantize_rows.h"

namespace filigree {
namespace {

constexpr uint32_t kBlock = 128;

// Walks the blocks: before(first, end) once for each, then row(r, first, x, error) for every row, which turns x [end - first] into its
// final values and leaves the errors e; corrections within the block are its business (correct()).
template <class Before, class Row>
void sweep(const SolveContext& context, const float* upper, DenseMatrix& weight, Before before, Row row) {
  const uint32_t rows = weight.rows, n = weight.cols;
  std::vector<float> errors(size_t{rows} * kBlock);
  for (uint32_t first = 0; first < n; first += kBlock) {
    const uint32_t end = std::min(n, first + kBlock), width = end - first;
    before(first, end);
    share_rows(context.pool, rows, [&](uint32_t begin, uint32_t stop) {
      for (uint32_t r = begin; r < stop; ++r)
        row(r, first, width, weight.row(r) + first, errors.data() + size_t{r} * kBlock);
    });
    if (end < n) {
      multiply<float>(context.pool, context.ops, rows, n - end, width, -1.0f, {errors.data(), kBlock, 1},
                      {upper + size_t{first} * n + end, n, 1}, 1.0f, weight.data() + end, n);
    }
  }
}

// The columns after i within the block.
void correct(const float* upper, uint32_t n, uint32_t first, uint32_t i, uint32_t width, float error,
             float* x) {
  const float* u = upper + size_t{first + i} * n + first;
  for (uint32_t j = i + 1; j < width; ++j) x[j] -= error * u[j];
}

}  // namespace

void sweep_prune(const SolveContext& context, const Pattern& pattern, double sparsity, DampedHessian& hessian,
                 DenseMatrix& weight, Mask& mask) {
  const float* upper = hessian.inverse_factor();
  const uint32_t rows = weight.rows, n = weight.cols;
  const auto diagonal = [&](uint32_t c) { return upper[size_t{c} * n + c]; };
  mask.assign(weight.size(), 1);
  std::vector<float> scores;
  Mask block_mask;
  const auto before = [&](uint32_t first, uint32_t end) {
    if (pattern.of > 0) return;
    const uint32_t width = end - first;
    scores.resize(size_t{rows} * width);
    share_rows(context.pool, rows, [&](uint32_t begin, uint32_t stop) {
      for (uint32_t r = begin; r < stop; ++r) {
        for (uint32_t i = 0; i < width; ++i) {
          const float scaled = weight.row(r)[first + i] / diagonal(first + i);
          scores[size_t{r} * width + i] = scaled * scaled;
        }
      }
    });
    choose_mask(context.pool, pattern, sparsity, scores.data(), rows, width, {}, block_mask);
    for (uint32_t r = 0; r < rows; ++r)
      std::copy_n(block_mask.data() + size_t{r} * width, width, mask.data() + size_t{r} * n + first);
  };
  sweep(context, upper, weight, before,
        [&](uint32_t r, uint32_t first, uint32_t width, float* x, float* errors) {
          uint8_t* keep = mask.data() + size_t{r} * n + first;
          float group_scores[64];
          for (uint32_t i = 0; i < width; ++i) {
            if (pattern.of > 0 && i % pattern.of == 0) {
              const uint32_t m = std::min(pattern.of, width - i);
              for (uint32_t j = 0; j < m; ++j) {
                const float scaled = x[i + j] / diagonal(first + i + j);
                group_scores[j] = scaled * scaled;
              }
              choose_group(group_scores, m, pattern.keep, keep + i);
            }
            errors[i] = 0;
            if (hessian.dead()[first + i]) keep[i] = 0;
            if (keep[i]) continue;
            errors[i] = x[i] / diagonal(first + i);
            x[i] = 0;
            if (errors[i] != 0) correct(upper, n, first, i, width, errors[i], x);
          }
        });
}

void sweep_quantize(const SolveContext& context, int bits, uint32_t group, const Mask& mask,
                    DampedHessian& hessian, DenseMatrix& weight, Codes& codes) {
  const float* upper = hessian.inverse_factor();
  const uint32_t rows = weight.rows, n = weight.cols;
  codes.bits = bits;
  codes.group = bits == 4 ? group : 0;
  const uint32_t groups = group_count(n, codes.group);
  codes.values.assign(weight.size(), 0);
  codes.scales.assign(size_t{rows} * groups, 0.0f);
  const float low = bits == 8 ? -127.0f : -8.0f, high = bits == 8 ? 127.0f : 7.0f;
  if (bits == 8) {
    for (uint32_t r = 0; r < rows; ++r) {
      float most = 1e-10f;
      for (uint32_t c = 0; c < n; ++c) most = std::max(most, std::fabs(weight.row(r)[c]));
      codes.scales[r] = most / 127.0f;
    }
  }
  const auto nothing = [](uint32_t, uint32_t) {};
  sweep(context, upper, weight, nothing,
        [&](uint32_t r, uint32_t first, uint32_t width, float* x, float* errors) {
          const uint8_t* keep = mask.data() + size_t{r} * n + first;
          int8_t* code = codes.values.data() + size_t{r} * n + first;
          float* scales = codes.scales.data() + size_t{r} * groups;
          float scale = bits == 8 ? scales[0] : 0.0f, kept[kBlock];
          for (uint32_t i = 0; i < width; ++i) {
            if (bits == 4 && (first + i) % group == 0) {
              const uint32_t m = std::min(group, width - i);
              for (uint32_t j = 0; j < m; ++j) kept[j] = keep[i + j] ? x[i + j] : 0.0f;
              scale = f16_to_f32(search_i4_scale(kept, m));
              scales[(first + i) / group] = scale;
            }
            const float rounded =
                keep[i] && scale != 0 ? std::clamp(std::nearbyint(x[i] / scale), low, high) : 0.0f;
            code[i] = static_cast<int8_t>(rounded);
            const float value = scale * rounded;
            errors[i] = (x[i] - value) / upper[size_t{first + i} * n + first + i];
            x[i] = value;
            if (errors[i] != 0) correct(upper, n, first, i, width, errors[i], x);
          }
        });
}

void refine_codes(const SolveContext& context, const float* h, const DenseMatrix& target, const Mask& mask,
                  int sweeps, DenseMatrix& weight, Codes& codes) {
  const uint32_t rows = weight.rows, n = weight.cols;
  DenseMatrix difference("", rows, n), gradient("", rows, n);
  for (size_t i = 0; i < weight.size(); ++i) difference.data()[i] = weight.data()[i] - target.data()[i];
  multiply<float>(context.pool, context.ops, rows, n, n, 1.0f, {difference.data(), n, 1}, {h, n, 1}, 0.0f,
                  gradient.data(), n);
  const uint32_t groups = group_count(n, codes.group), width = codes.group == 0 ? n : codes.group;
  const float low = codes.bits == 8 ? -127.0f : -8.0f, high = codes.bits == 8 ? 127.0f : 7.0f;
  share_rows(context.pool, rows, [&](uint32_t begin, uint32_t end) {
    for (uint32_t r = begin; r < end; ++r) {
      float *w = weight.row(r), *g = gradient.row(r);
      int8_t* code = codes.values.data() + size_t{r} * n;
      const uint8_t* keep = mask.data() + size_t{r} * n;
      for (int sweep = 0; sweep < sweeps; ++sweep) {
        bool moved = false;
        for (uint32_t c = 0; c < n; ++c) {
          const float scale = codes.scales[size_t{r} * groups + c / width];
          if (!keep[c] || scale == 0) continue;  // a searched scale may be negative
          const float* line = h + size_t{c} * n;
          const float best = std::clamp(std::nearbyint((w[c] - g[c] / line[c]) / scale), low, high);
          if (best == static_cast<float>(code[c])) continue;
          code[c] = static_cast<int8_t>(best);
          const float change = scale * best - w[c];
          w[c] = scale * best;
          for (uint32_t j = 0; j < n; ++j) g[j] += change * line[j];
          moved = true;
        }
        if (!moved) break;
      }
    }
  });
}

}  // namespace filigree
