#include "engine/activations.h"

#include <cstring>

namespace filigree {
namespace {

// Elements between rows: whole kInputPadding, and never a multiple of 2048, because rows that far apart share cache sets.
size_t padded_stride(uint32_t cols) {
  const size_t padding = linear::kInputPadding;
  const size_t stride = (cols + padding - 1) / padding * padding;
  return stride % 2048 == 0 ? stride + padding : stride;
}

}  // namespace

Activations::Activations(uint32_t max_rows, uint32_t max_cols, const QuantizeOps& ops)
    : ops_(ops),
      leftover_rows_(max_rows),
      sum_capacity_{(max_cols + 31) / 32, (max_cols + 127) / 128},
      bf16_(max_rows * padded_stride(max_cols) * sizeof(uint16_t)),
      i8_(2 * max_rows * padded_stride(max_cols)),
      scales_(2 * max_rows * sizeof(float)),
      sums_{AlignedBuffer(2 * max_rows * sum_capacity_[0] * sizeof(int32_t)),
            AlignedBuffer(2 * max_rows * sum_capacity_[1] * sizeof(int32_t))},
      rest_(max_rows * padded_stride(max_cols) * sizeof(float)) {}

void Activations::begin(const Projection& projection, const float* source, size_t source_stride,
                        uint32_t rows) {
  projection_ = &projection;
  source_ = source;
  source_stride_ = source_stride;
  stride_ = padded_stride(projection.in);
  rows_ = rows;
  leftover_count_.store(0, std::memory_order_relaxed);
}

void Activations::convert(uint32_t row) {
  const Projection& p = *projection_;
  const float* x = source_ + row * source_stride_;
  if (p.wants_bf16) {
    uint16_t* out = bf16_.as<uint16_t>() + row * stride_;
    ops_.to_bf16(x, p.in, out);
    std::memset(out + p.in, 0, (stride_ - p.in) * sizeof(uint16_t));
  }
  if (!p.wants_i8) return;
  quantize(x, row);
  if (!has_outliers(x, row)) return;
  const uint32_t index = leftover_count_.fetch_add(1, std::memory_order_relaxed);
  leftover_rows_[index] = row;
  float* rest = rest_.as<float>() + row * stride_;
  ops_.residual(x, p.in, i8_.as<int8_t>() + row * stride_, scales_.as<float>()[row], rest);
  quantize(rest, rows_ + index);
}

void Activations::quantize(const float* x, uint32_t token) {
  const Projection& p = *projection_;
  int8_t* codes = i8_.as<int8_t>() + token * stride_;
  ops_.quantize_row_i8(x, p.in, codes, scales_.as<float>() + token);
  std::memset(codes + p.in, 0, stride_ - p.in);
  for (int g = 0; g < 2; ++g) {
    if (p.sum_groups[g] != 0) {
      ops_.group_sums(codes, p.in, p.sum_groups[g], sums_[g].as<int32_t>() + token * sum_capacity_[g]);
    }
  }
}

bool Activations::has_outliers(const float* x, uint32_t token) const {
  const uint32_t n = projection_->in;
  const float absmax = 127.0f * scales_.as<float>()[token];
  // False for a row that is not finite: its scale is NaN already, and what is computed from it too.
  return absmax * absmax * static_cast<float>(n) > kOutlierRatio * kOutlierRatio * ops_.sum_squares(x, n);
}

linear::Input Activations::input(const linear::Matrix& matrix) const {
  linear::Input input;
  input.tokens = rows_;
  switch (linear::input_kind(matrix.format)) {
    case linear::InputKind::f32:
      input.f32 = source_;
      input.stride = source_stride_;
      break;
    case linear::InputKind::bf16:
      input.bf16 = bf16_.as<uint16_t>();
      input.stride = stride_;
      break;
    case linear::InputKind::i8: {
      input.tokens = rows_ + static_cast<uint32_t>(leftovers().size());
      input.i8 = i8_.as<int8_t>();
      input.stride = stride_;
      input.scales = scales_.as<float>();
      if (linear::is_i4(matrix.format)) {
        const int g = matrix.format == linear::Format::i4g32 ? 0 : 1;
        input.group_sums = sums_[g].as<int32_t>();
        input.group_stride = sum_capacity_[g];
      }
      break;
    }
  }
  return input;
}

}  // namespace filigree
