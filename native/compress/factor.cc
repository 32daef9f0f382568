#include "compress/factor.h"

#include <algorithm>
#include <cmath>

#include "base/status.h"
#include "compress/rows.h"

namespace filigree {
namespace {

constexpr size_t kBlock = 64;

// a = L L^T of one small block; false if a pivot is not positive.
bool cholesky_block(double* a, size_t n, size_t stride) {
  for (size_t j = 0; j < n; ++j) {
    double pivot = a[j * stride + j];
    for (size_t p = 0; p < j; ++p) pivot -= a[j * stride + p] * a[j * stride + p];
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    const double root = std::sqrt(pivot);
    a[j * stride + j] = root;
    for (size_t i = j + 1; i < n; ++i) {
      double sum = a[i * stride + j];
      for (size_t p = 0; p < j; ++p) sum -= a[i * stride + p] * a[j * stride + p];
      a[i * stride + j] = sum / root;
    }
  }
  return true;
}

// out [n][n] = the inverse of a lower triangular block.
void invert_block(const double* a, size_t n, size_t stride, double* out, size_t out_stride) {
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) out[i * out_stride + j] = 0;
    out[i * out_stride + i] = 1 / a[i * stride + i];
    for (size_t j = 0; j < i; ++j) {
      double sum = 0;
      for (size_t p = j; p < i; ++p) sum -= a[i * stride + p] * out[p * out_stride + j];
      out[i * out_stride + j] = sum / a[i * stride + i];
    }
  }
}

}  // namespace

bool cholesky(ThreadPool& pool, const GemmOps& ops, size_t n, double* a) {
  std::vector<double> inverse(kBlock * kBlock), panel;
  for (size_t k = 0; k < n; k += kBlock) {
    const size_t width = std::min(kBlock, n - k), below = n - k - width;
    double* block = a + k * n + k;
    if (!cholesky_block(block, width, n)) return false;
    if (below == 0) break;
    // The panel under the block, L21 = A21 L11^-T, as a product with the block's inverse.
    invert_block(block, width, n, inverse.data(), width);
    double* under = block + width * n;
    panel.resize(below * width);
    multiply<double>(pool, ops, below, width, width, 1.0, {under, n, 1}, {inverse.data(), 1, width}, 0.0,
                     panel.data(), width);
    for (size_t i = 0; i < below; ++i) std::copy_n(panel.data() + i * width, width, under + i * n);
    multiply<double>(pool, ops, below, below, width, -1.0, {panel.data(), width, 1}, {panel.data(), 1, width},
                     1.0, under + width, n, Part::lower);
  }
  return true;
}

void invert_lower(ThreadPool& pool, const GemmOps& ops, size_t n, const double* lower, double* inverse) {
  std::fill_n(inverse, n * n, 0.0);
  std::vector<double> product, block(kBlock * kBlock);
  for (size_t k = 0; k < n; k += kBlock) {
    const size_t width = std::min(kBlock, n - k);
    invert_block(lower + k * n + k, width, n, block.data(), width);
    for (size_t i = 0; i < width; ++i)
      std::copy_n(block.data() + i * width, width, inverse + (k + i) * n + k);
    if (k == 0) continue;
    // Row block k of the inverse: -L_kk^-1 (L_k,0..k X_0..k).
    product.resize(width * k);
    multiply<double>(pool, ops, width, k, k, 1.0, {lower + k * n, n, 1}, {inverse, n, 1}, 0.0, product.data(),
                     k);
    multiply<double>(pool, ops, width, k, width, -1.0, {block.data(), width, 1}, {product.data(), k, 1}, 0.0,
                     inverse + k * n, n);
  }
}

DampedHessian::DampedHessian(ThreadPool& pool, const GemmOps& ops, const float* h, uint32_t n, double damping)
    : pool_(pool), ops_(ops), n_(n), damping_(damping), dead_(n), values_(size_t{n} * n * sizeof(float)) {
  double mean = 0;
  for (uint32_t i = 0; i < n; ++i) {
    const double d = h[size_t{i} * n + i];
    if (!std::isfinite(d) || d < 0)
      throw Error(ErrorCode::corrupt_data,
                  "its inputs over the calibration text are not finite; the checkpoint is damaged");
    dead_[i] = d == 0;
    mean += d / n;
  }
  AlignedBuffer trial(size_t{n} * n * sizeof(double));
  float* out = values_.as<float>();
  for (;; damping_ *= 10) {
    if (damping_ > 1e3)
      throw Error(ErrorCode::corrupt_data, "its Hessian is not positive definite, whatever is added");
    std::copy_n(h, size_t{n} * n, out);
    for (uint32_t i = 0; i < n; ++i)
      out[size_t{i} * n + i] =
          static_cast<float>((dead_[i] ? 1.0 : double{h[size_t{i} * n + i]}) + damping_ * mean);
    std::copy_n(out, size_t{n} * n, trial.as<double>());
    if (cholesky(pool_, ops_, n, trial.as<double>())) return;
  }
}

const float* DampedHessian::inverse_factor() {
  if (!factor_.empty()) return factor_.as<float>();
  const size_t n = n_;
  AlignedBuffer lower(n * n * sizeof(double)), inverse(n * n * sizeof(double));
  double* a = lower.as<double>();
  // With the order of rows and columns reversed, h = L L^T gives h^-1 = (J L^-1 J)^T (J L^-1 J), and J L^-1 J is upper: one
  // factorization and one triangular inverse in place of SparseGPT's Cholesky, inverse and second Cholesky.
  const float* h = values();
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) a[i * n + j] = h[(n - 1 - i) * n + (n - 1 - j)];
  if (!cholesky(pool_, ops_, n, a))
    throw Error(ErrorCode::internal, "a Hessian that was positive definite is not");
  invert_lower(pool_, ops_, n, a, inverse.as<double>());
  factor_ = AlignedBuffer(n * n * sizeof(float));
  const double* l = inverse.as<double>();
  float* upper = factor_.as<float>();
  for (size_t i = 0; i < n; ++i)
    for (size_t j = i; j < n; ++j) upper[i * n + j] = static_cast<float>(l[(n - 1 - i) * n + (n - 1 - j)]);
  return upper;
}

AlignedBuffer DampedHessian::inverse(double ridge) const {
  const size_t n = n_;
  AlignedBuffer lower(n * n * sizeof(double)), inverse(n * n * sizeof(double));
  double* a = lower.as<double>();
  std::copy_n(values(), n * n, a);
  for (size_t i = 0; i < n; ++i) a[i * n + i] += ridge;
  if (!cholesky(pool_, ops_, n, a))
    throw Error(ErrorCode::internal, "a Hessian that was positive definite is not");
  const double* l = inverse.as<double>();
  invert_lower(pool_, ops_, n, a, inverse.as<double>());
  // (L L^T)^-1 = L^-T L^-1, written over L.
  multiply<double>(pool_, ops_, n, n, n, 1.0, {l, 1, n}, {l, n, 1}, 0.0, a, n, Part::upper);
  AlignedBuffer out(n * n * sizeof(float));
  float* result = out.as<float>();
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i; j < n; ++j) {
      result[i * n + j] = result[j * n + i] = static_cast<float>(a[i * n + j]);
    }
  }
  return out;
}

}  // namespace filigree
