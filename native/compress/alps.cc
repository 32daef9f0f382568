#include "compress/alps.h"

#include <algorithm>
#include <cmath>

#include "compress/masks.h"
#include "compress/rows.h"

namespace filigree {
namespace {

constexpr uint32_t kStepsPerRho = 6;
constexpr float kRelaxation = 1.5f;
constexpr int kRefitSteps = 10;

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

AdmmFactors::AdmmFactors(const SolveContext& context, const DampedHessian& hessian, bool keep_all)
    : n_(hessian.size()),
      keep_all_(keep_all),
      scale_(n_),
      dead_(hessian.dead()),
      h_(size_t{n_} * n_ * sizeof(float)) {
  const float* from = hessian.values();
  float* to = h_.as<float>();
  for (uint32_t c = 0; c < n_; ++c) scale_[c] = std::sqrt(from[size_t{c} * n_ + c]);
  share_rows(context.pool, n_, [&](uint32_t begin, uint32_t end) {
    for (uint32_t i = begin; i < end; ++i)
      for (uint32_t j = 0; j < n_; ++j)
        to[size_t{i} * n_ + j] = from[size_t{i} * n_ + j] / (scale_[i] * scale_[j]);
  });
}

const float* AdmmFactors::inverse(const SolveContext& context, size_t i) {
  if (inverses_[i].empty()) {
    if (!keep_all_)
      for (AlignedBuffer& other : inverses_) other = AlignedBuffer();
    inverses_[i] = ridge_inverse(context.pool, context.ops, h(), n_, kRho[i]);
  }
  return inverses_[i].as<float>();
}

uint32_t alps(const SolveContext& context, const Pattern& pattern, double sparsity, AdmmFactors& factors,
              DenseMatrix& weight, Mask& mask) {
  const uint32_t rows = weight.rows, n = weight.cols;
  const std::vector<float>& scale = factors.scale();
  const auto each = [&](auto work) {
    share_rows(context.pool, rows, [&](uint32_t begin, uint32_t end) {
      for (size_t i = size_t{begin} * n; i < size_t{end} * n; ++i) work(i);
    });
  };
  DenseMatrix target("", rows, n), g("", rows, n), v("", rows, n), d("", rows, n), b("", rows, n),
      r("", rows, n);
  share_rows(context.pool, rows, [&](uint32_t begin, uint32_t end) {
    for (uint32_t row = begin; row < end; ++row)
      for (uint32_t c = 0; c < n; ++c) target.row(row)[c] = d.row(row)[c] = weight.row(row)[c] * scale[c];
  });
  times_symmetric(context, target.data(), factors.h(), rows, n, g.data());

  uint32_t steps = 0;
  for (size_t stage = 0; stage < std::size(AdmmFactors::kRho); ++stage) {
    const float rho = AdmmFactors::kRho[stage];
    const float* inverse = factors.inverse(context, stage);
    for (uint32_t i = 0; i < kStepsPerRho; ++i, ++steps) {
      each([&](size_t at) { r.data()[at] = g.data()[at] - v.data()[at] + rho * d.data()[at]; });
      times_symmetric(context, r.data(), inverse, rows, n, b.data());
      each([&](size_t at) {
        float& relaxed = b.data()[at];
        relaxed = kRelaxation * relaxed + (1.0f - kRelaxation) * d.data()[at];
        const float next = relaxed + v.data()[at] / rho;
        d.data()[at] = next;
        r.data()[at] = next * next;
      });
      choose_mask(context.pool, pattern, sparsity, r.data(), rows, n, factors.dead(), mask);
      each([&](size_t at) {
        if (!mask[at]) d.data()[at] = 0;
        v.data()[at] += rho * (b.data()[at] - d.data()[at]);
      });
    }
  }
  refit(context, factors.h(), target, mask, kRefitSteps, d);
  share_rows(context.pool, rows, [&](uint32_t begin, uint32_t end) {
    for (uint32_t row = begin; row < end; ++row)
      for (uint32_t c = 0; c < n; ++c) weight.row(row)[c] = d.row(row)[c] / scale[c];
  });
  return steps;
}

}  // namespace filigree
