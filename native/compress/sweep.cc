#include "compress/sweep.h"

#include <algorithm>
#include <cmath>

#include "base/half.h"
#include "compress/masks.h"
#include "compress/rows.h"

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
void correct(const SolveContext& context, const float* upper, uint32_t n, uint32_t first, uint32_t i,
             uint32_t width, float error, float* x) {
  const float* u = upper + size_t{first + i} * n + first;
  context.codes.subtract(x + i + 1, u + i + 1, error, width - i - 1);
}

// Ties to even, for |x| < 2^22; unlike std::nearbyint a pair of additions that becomes vector code.
float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

// The f16 scale for a group of m <= kBlock columns under which the sweep over it leaves the least sum of e^2, which is what the group
// adds to the error of the outputs, the columns after it being corrected as well as can be. u: the group's first diagonal element in U,
// rows `stride` apart. Trial scales put the extreme kept weight at -6 to -11.7: at worst a third of its size is clipped. 0 where
// nothing is kept.
float search_scale(const float* u, size_t stride, uint32_t m, const uint8_t* keep, const float* x) {
  constexpr int kTrials = 20;
  float extreme = 0;
  for (uint32_t j = 0; j < m; ++j)
    if (keep[j] && std::fabs(x[j]) > std::fabs(extreme)) extreme = x[j];
  float best = 0, least = HUGE_VALF, y[kBlock];
  for (int trial = 0; trial < kTrials; ++trial) {
    const float scale = f16_to_f32(f32_to_f16(extreme / -(6.0f + 0.3f * static_cast<float>(trial))));
    if (scale == 0) break;
    const float inverse = 1.0f / scale;
    std::copy_n(x, m, y);
    float sum = 0;
    for (uint32_t i = 0; i < m && sum < least; ++i) {
      const float* line = u + i * stride;
      const float code = keep[i] ? std::min(std::max(nearest(y[i] * inverse), -8.0f), 7.0f) : 0.0f;
      const float error = (y[i] - scale * code) / line[i];
      sum += error * error;
      for (uint32_t j = i + 1; j < m; ++j) y[j] -= error * line[j];
    }
    if (sum < least) least = sum, best = scale;
  }
  return best;
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
            if (errors[i] != 0) correct(context, upper, n, first, i, width, errors[i], x);
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
          float scale = bits == 8 ? scales[0] : 0.0f;
          for (uint32_t i = 0; i < width; ++i) {
            if (bits == 4 && (first + i) % group == 0) {
              const uint32_t m = std::min(group, width - i);
              scale = search_scale(upper + size_t{first + i} * (n + 1), n, m, keep + i, x + i);
              scales[(first + i) / group] = scale;
            }
            const float rounded =
                keep[i] && scale != 0 ? std::clamp(std::nearbyint(x[i] / scale), low, high) : 0.0f;
            code[i] = static_cast<int8_t>(rounded);
            const float value = scale * rounded;
            errors[i] = (x[i] - value) / upper[size_t{first + i} * n + first + i];
            x[i] = value;
            if (errors[i] != 0) correct(context, upper, n, first, i, width, errors[i], x);
          }
        });
}

}  // namespace filigree
