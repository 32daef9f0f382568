#include "compress/alps.h"

#include <algorithm>
#include <cmath>

#include "compress/masks.h"
#include "compress/rows.h"

namespace filigree {
namespace {

constexpr uint32_t kMostSteps = 300;
constexpr int kRefitSteps = 20;

void times_symmetric(const SolveContext& context, const float* a, const float* h, uint32_t rows, uint32_t n,
                     float* out) {
  multiply<float>(context.pool, context.ops, rows, n, n, 1.0f, {a, n, 1}, {h, n, 1}, 0.0f, out, n);
}

}  // namespace

void refit(const SolveContext& context, const float* h, const DenseMatrix& target, const Mask& mask,
           int steps, DenseMatrix& weight) {
  const uint32_t rows = weight.rows, n = weight.cols;
  DenseMatrix residual("", rows, n), direction("", rows, n), product("", rows, n);
  // Residual (target - weight) H on the support; Jacobi preconditioning with H's diagonal.
  share_rows(context.pool, rows, [&](uint32_t begin, uint32_t end) {
    for (size_t i = size_t{begin} * n; i < size_t{end} * n; ++i)
      direction.data()[i] = target.data()[i] - weight.data()[i];
  });
  times_symmetric(context, direction.data(), h, rows, n, residual.data());
  std::vector<double> old(rows);
  std::vector<float> inverse(n);
  for (uint32_t c = 0; c < n; ++c) inverse[c] = 1.0f / h[size_t{c} * n + c];
  const auto start_row = [&](uint32_t r) {
    double sum = 0;
    for (uint32_t c = 0; c < n; ++c) {
      float& x = residual.row(r)[c];
      if (!mask[size_t{r} * n + c]) x = 0;
      direction.row(r)[c] = x * inverse[c];
      sum += double{x} * direction.row(r)[c];
    }
    old[r] = sum;
  };
  share_rows(context.pool, rows, [&](uint32_t begin, uint32_t end) {
    for (uint32_t r = begin; r < end; ++r) start_row(r);
  });
  for (int step = 0; step < steps; ++step) {
    times_symmetric(context, direction.data(), h, rows, n, product.data());
    share_rows(context.pool, rows, [&](uint32_t begin, uint32_t end) {
      for (uint32_t r = begin; r < end; ++r) {
        float *x = weight.row(r), *p = direction.row(r), *g = residual.row(r);
        const float* q = product.row(r);
        const uint8_t* keep = mask.data() + size_t{r} * n;
        double curvature = 0;
        for (uint32_t c = 0; c < n; ++c) curvature += double{p[c]} * q[c];
        if (!(curvature > 0) || !(old[r] > 0)) continue;
        const float alpha = static_cast<float>(old[r] / curvature);
        double sum = 0;
        for (uint32_t c = 0; c < n; ++c) {
          if (!keep[c]) continue;
          x[c] += alpha * p[c];
          g[c] -= alpha * q[c];
          sum += double{g[c]} * g[c] * inverse[c];
        }
        const float beta = static_cast<float>(sum / old[r]);
        old[r] = sum;
        for (uint32_t c = 0; c < n; ++c) p[c] = g[c] * inverse[c] + beta * p[c];
      }
    });
  }
}

uint32_t alps(const SolveContext& context, const Pattern& pattern, double sparsity,
              const DampedHessian& hessian, DenseMatrix& weight, Mask& mask) {
  const uint32_t rows = weight.rows, n = weight.cols;
  // Columns scaled so that H has a unit diagonal: the projection then weighs a weight by its input's size, as Wanda does.
  std::vector<float> scale(n);
  AlignedBuffer scaled(size_t{n} * n * sizeof(float));
  float* h = scaled.as<float>();
  for (uint32_t c = 0; c < n; ++c) scale[c] = std::sqrt(hessian.values()[size_t{c} * n + c]);
  share_rows(context.pool, n, [&](uint32_t begin, uint32_t end) {
    for (uint32_t i = begin; i < end; ++i)
      for (uint32_t j = 0; j < n; ++j)
        h[size_t{i} * n + j] = hessian.values()[size_t{i} * n + j] / (scale[i] * scale[j]);
  });
  const auto each = [&](auto work) {
    share_rows(context.pool, rows, [&](uint32_t begin, uint32_t end) {
      for (size_t i = size_t{begin} * n; i < size_t{end} * n; ++i) work(i);
    });
  };
  DenseMatrix dense("", rows, n), g("", rows, n), v("", rows, n), d("", rows, n), b("", rows, n),
      r("", rows, n);
  share_rows(context.pool, rows, [&](uint32_t begin, uint32_t end) {
    for (uint32_t row = begin; row < end; ++row)
      for (uint32_t c = 0; c < n; ++c) dense.row(row)[c] = d.row(row)[c] = weight.row(row)[c] * scale[c];
  });
  times_symmetric(context, dense.data(), h, rows, n, g.data());

  float rho = 0.1f;
  AlignedBuffer inverse = ridge_inverse(context.pool, context.ops, h, n, rho);
  Mask before;
  uint32_t step = 0;
  const double weights = static_cast<double>(weight.size());
  mask.assign(weight.size(), 1);
  for (; step < kMostSteps; ++step) {
    each([&](size_t i) { r.data()[i] = g.data()[i] - v.data()[i] + rho * d.data()[i]; });
    times_symmetric(context, r.data(), inverse.as<float>(), rows, n, b.data());
    each([&](size_t i) {
      d.data()[i] = b.data()[i] + v.data()[i] / rho;
      r.data()[i] = d.data()[i] * d.data()[i];
    });
    if (step % 3 == 0) before = mask;
    choose_mask(context.pool, pattern, sparsity, r.data(), rows, n, hessian.dead(), mask);
    each([&](size_t i) {
      if (!mask[i]) d.data()[i] = 0;
      v.data()[i] += rho * (b.data()[i] - d.data()[i]);
    });
    if (step % 3 != 2) continue;
    uint64_t moved = 0;
    for (size_t i = 0; i < mask.size(); ++i) moved += mask[i] != before[i];
    const double share = static_cast<double>(moved) / weights;
    if (moved == 0) break;
    rho *= share > 0.05 ? 1.3f : share > 0.0025 ? 1.2f : 1.1f;
    inverse = ridge_inverse(context.pool, context.ops, h, n, rho);
  }
  refit(context, h, dense, mask, kRefitSteps, d);
  share_rows(context.pool, rows, [&](uint32_t begin, uint32_t end) {
    for (uint32_t row = begin; row < end; ++row)
      for (uint32_t c = 0; c < n; ++c) weight.row(row)[c] = d.row(row)[c] / scale[c];
  });
  return step;
}

}  // namespace filigree
