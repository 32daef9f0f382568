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

namespace {

constexpr size_t kChunk = 512;  // of the side along which half of a triangular operand is zero and skipped

// [n][n] within rows of `stride`, its upper part zero; scratch holds a quarter of it.
void invert_halves(ThreadPool& pool, const GemmOps& ops, size_t n, size_t stride, double* a,
                   double* scratch) {
  if (n <= kBlock) {
    invert_block(a, n, stride, scratch, n);
    for (size_t i = 0; i < n; ++i) std::copy_n(scratch + i * n, n, a + i * stride);
    return;
  }
  const size_t n1 = (n / 2 + kBlock - 1) / kBlock * kBlock, n2 = n - n1;
  double *b = a + n1 * stride, *c = b + n1;
  invert_halves(pool, ops, n1, stride, a, scratch);
  invert_halves(pool, ops, n2, stride, c, scratch);
  for (size_t j = 0; j < n1; j += kChunk)
    multiply<double>(pool, ops, n2, std::min(kChunk, n1 - j), n1 - j, 1.0, {b + j, stride, 1},
                     {a + j * stride + j, stride, 1}, 0.0, scratch + j, n1);
  for (size_t i = 0; i < n2; i += kChunk) {
    const size_t rows = std::min(kChunk, n2 - i);
    multiply<double>(pool, ops, rows, n1, i + rows, -1.0, {c + i * stride, stride, 1}, {scratch, n1, 1}, 0.0,
                     b + i * stride, stride);
  }
}

}  // namespace

void invert_lower(ThreadPool& pool, const GemmOps& ops, size_t n, double* lower) {
  for (size_t i = 0; i < n; ++i) std::fill_n(lower + i * n + i + 1, n - i - 1, 0.0);
  const size_t half = std::max(kBlock, n / 2 + kBlock);
  std::vector<double> scratch(half * half);
  invert_halves(pool, ops, n, n, lower, scratch.data());
}

AlignedBuffer ridge_inverse(ThreadPool& pool, const GemmOps& ops, const float* h, size_t n, double ridge) {
  AlignedBuffer lower(n * n * sizeof(double)), out(n * n * sizeof(float));
  double* l = lower.as<double>();
  for (size_t i = 0; i < n; ++i) {
    std::copy_n(h + i * n, i + 1, l + i * n);
    l[i * n + i] += ridge;
  }
  if (!cholesky(pool, ops, n, l))
    throw Error(ErrorCode::corrupt_data, "its Hessian is not positive definite");
  invert_lower(pool, ops, n, l);
  // L^-T L^-1, a panel of columns at a time: above it and beside it, only the rows of L^-1 from the panel on count.
  std::vector<double> panel(n * std::min(n, kChunk));
  float* result = out.as<float>();
  for (size_t j0 = 0; j0 < n; j0 += kChunk) {
    const size_t width = std::min(kChunk, n - j0), rows = j0 + width;
    multiply<double>(pool, ops, rows, width, n - j0, 1.0, {l + j0 * n, 1, n}, {l + j0 * n + j0, n, 1}, 0.0,
                     panel.data(), width);
    for (size_t i = 0; i < rows; ++i)
      for (size_t j = std::max(i, j0); j < rows; ++j)
        result[i * n + j] = result[j * n + i] = static_cast<float>(panel[i * width + j - j0]);
  }
  return out;
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
  cholesky_ = AlignedBuffer(size_t{n} * n * sizeof(double));
  float* out = values_.as<float>();
  double* reversed = cholesky_.as<double>();
  for (;; damping_ *= 10) {
    if (damping_ > 1e3)
      throw Error(ErrorCode::corrupt_data, "its Hessian is not positive definite, whatever is added");
    std::copy_n(h, size_t{n} * n, out);
    for (uint32_t i = 0; i < n; ++i)
      out[size_t{i} * n + i] =
          static_cast<float>((dead_[i] ? 1.0 : double{h[size_t{i} * n + i]}) + damping_ * mean);
    // With the order of rows and columns reversed, h = L L^T gives h^-1 = (J L^-1 J)^T (J L^-1 J), and J L^-1 J is upper: one
    // factorization and one triangular inverse in place of SparseGPT's Cholesky, inverse and second Cholesky.
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j <= i; ++j) reversed[i * n + j] = out[(n - 1 - i) * n + (n - 1 - j)];
    if (cholesky(pool_, ops_, n, reversed)) return;
  }
}

const float* DampedHessian::inverse_factor() {
  if (!factor_.empty()) return factor_.as<float>();
  const size_t n = n_;
  double* l = cholesky_.as<double>();
  invert_lower(pool_, ops_, n, l);
  factor_ = AlignedBuffer(n * n * sizeof(float));
  float* upper = factor_.as<float>();
  for (size_t i = 0; i < n; ++i)
    for (size_t j = i; j < n; ++j) upper[i * n + j] = static_cast<float>(l[(n - 1 - i) * n + (n - 1 - j)]);
  cholesky_ = AlignedBuffer();
  return upper;
}

}  // namespace filigree
