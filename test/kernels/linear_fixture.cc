#include "linear_fixture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "base/thread_pool.h"

namespace filigree::test {

void MemoryRows::read_f32(uint64_t row, uint64_t n, float* out) const {
  std::copy_n(&values[row * cols_], n * cols_, out);
}

void MemoryRows::read_codes(uint64_t row, uint64_t n, int8_t* codes, float* scales, float* mins) const {
  const size_t groups = source_codes->group == 0 ? 1
                                                 : (cols_ + static_cast<size_t>(source_codes->group) - 1) /
                                                       static_cast<size_t>(source_codes->group);
  std::copy_n(&code[row * cols_], n * cols_, codes);
  std::copy_n(&scale[row * groups], n * groups, scales);
  if (source_codes->has_min) std::copy_n(&min[row * groups], n * groups, mins);
}

void MemoryRows::read_mask(uint64_t row, uint64_t n, uint8_t* bits) const {
  const size_t row_bytes = (cols_ + 7) / 8;
  std::fill_n(bits, n * row_bytes, uint8_t{0});
  for (uint64_t r = 0; r < n; ++r) {
    for (uint32_t k = 0; k < cols_; ++k)
      bits[r * row_bytes + k / 8] |= static_cast<uint8_t>(stored[(row + r) * cols_ + k] << (k % 8));
  }
}

void MemoryRows::randomize_codes(Random& random, SourceCodes codes, double zeros, bool masked) {
  source_codes = codes;
  const uint32_t group = codes.group == 0 ? cols_ : static_cast<uint32_t>(codes.group),
                 groups = (cols_ + group - 1) / group;
  code.assign(values.size(), 0);
  scale.resize(size_t{rows_} * groups);
  min.resize(scale.size());
  if (masked) stored.assign(values.size(), 1);
  // Scales that f16 holds exactly, so that unpacking gives the values back bit by bit.
  for (float& s : scale) s = f16_to_f32(f32_to_f16(random.uniform(0.001f, 0.1f)));
  for (float& m : min) m = f16_to_f32(f32_to_f16(random.uniform(-0.5f, 0.1f)));
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t s = i / cols_ * groups + i % cols_ / group;
    const bool zero = random.uniform() < zeros;
    if (zero && masked) {
      stored[i] = 0;
      values[i] = 0.0f;
      continue;
    }
    const int low = codes.bits == 8 ? -127 : codes.has_min ? 0 : -8, span = codes.bits == 8 ? 255 : 16;
    if (!zero)
      code[i] = static_cast<int8_t>(low + static_cast<int>(random.below(static_cast<uint32_t>(span))));
    values[i] = scale[s] * static_cast<float>(code[i]);
    if (codes.has_min) values[i] += min[s];
  }
}

MemoryRows random_rows(Random& random, uint32_t rows, uint32_t cols, double zeros, bool extremes) {
  MemoryRows m(rows, cols);
  for (uint32_t r = 0; r < rows; ++r) {
    const uint32_t kind = extremes ? random.below(8) : 7;
    const double row_zeros = kind == 0 ? 1.0 : kind == 1 ? 0.0 : zeros;
    for (uint32_t k = 0; k < cols; ++k) {
      const bool zero = random.uniform() < row_zeros;
      const float value = random.normal();
      m.values[size_t{r} * cols + k] = zero ? 0.0f : kind == 2 ? (value < 0 ? -1.0f : 1.0f) : value;
    }
  }
  return m;
}

Activations::Activations(Random& random, uint32_t tokens, uint32_t cols, linear::Format format)
    : tokens_(tokens), cols_(cols), groups_(0) {
  stride_ = (size_t{cols} + linear::kInputPadding - 1) / linear::kInputPadding * linear::kInputPadding + 3;
  // One element ahead of the first row, so that no row is aligned.
  f32_.assign(stride_ * tokens + 1, NAN);
  bf16_.assign(stride_ * tokens + 1, 0);
  i8_.assign(stride_ * tokens + 1, 0);
  scales_.resize(tokens);
  const uint32_t group = linear::group_size(format);
  groups_ = group == 0 ? 0 : (cols + group - 1) / group;
  group_stride_ = groups_ + 1;
  sums_.assign(group_stride_ * tokens, 0);
  for (uint32_t t = 0; t < tokens; ++t) {
    float* f = &f32_[1 + t * stride_];
    float most = 0.0f;
    const bool extreme = random.below(5) == 0;  // every code at +-127
    for (uint32_t k = 0; k < cols; ++k) {
      f[k] = extreme ? (random.below(2) ? 1.0f : -1.0f) : random.normal();
      most = std::max(most, std::fabs(f[k]));
    }
    scales_[t] = most / 127.0f;
    for (uint32_t k = 0; k < cols; ++k) {
      const size_t e = 1 + t * stride_ + k;
      bf16_[e] = f32_to_bf16(f[k]);
      i8_[e] = static_cast<int8_t>(std::lrint(std::clamp(f[k] / scales_[t], -127.0f, 127.0f)));
      if (group != 0) sums_[t * group_stride_ + k / group] += i8_[e];
    }
  }
}

linear::Input Activations::view(uint32_t first, uint32_t count) const {
  linear::Input in;
  in.tokens = count;
  in.stride = stride_;
  in.f32 = &f32_[1 + first * stride_];
  in.bf16 = &bf16_[1 + first * stride_];
  in.i8 = &i8_[1 + first * stride_];
  in.scales = &scales_[first];
  if (groups_ != 0) in.group_sums = &sums_[first * group_stride_];
  in.group_stride = group_stride_;
  return in;
}

PackedMatrix pack_rows(const MemoryRows& rows, linear::Format format, std::optional<linear::Layout> layout,
                       int threads) {
  ThreadPool pool(threads);
  const RowSource* parts[] = {&rows};
  PackOptions options;
  options.format = format;
  options.layout = layout;
  return pack(parts, options, detect_cpu(), pool);
}

std::vector<float> run_variant(const linear::Variant& v, const linear::Matrix& m, const linear::Input& in,
                               uint32_t cut) {
  constexpr float kGuard = 12345.0f;
  const size_t stride = m.rows + 5;
  std::vector<float> raw(stride * in.tokens + 3, kGuard);
  float* out = raw.data() + 3;
  const size_t bytes = v.workspace(m, in.tokens);
  AlignedBuffer workspace(bytes + 64);
  std::memset(workspace.data(), 0xAB, workspace.size());  // kernels must not rely on zeros
  const uint32_t panels = linear::panel_count(m);
  cut = std::min(cut, panels);
  if (cut > 0) v.run(m, in, 0, cut, out, stride, workspace.data());
  v.run(m, in, cut, panels, out, stride, workspace.data());
  for (size_t i = bytes; i < workspace.size(); ++i) {
    if (workspace.data()[i] != std::byte{0xAB}) {
      check(false, "workspace overrun");
      break;
    }
  }
  std::vector<float> result(size_t{m.rows} * in.tokens);
  bool guards = raw[0] == kGuard && raw[1] == kGuard && raw[2] == kGuard;
  for (uint32_t t = 0; t < in.tokens; ++t) {
    std::copy_n(out + t * stride, m.rows, &result[size_t{t} * m.rows]);
    for (size_t i = m.rows; i < stride; ++i) guards = guards && out[t * stride + i] == kGuard;
  }
  check(guards, "wrote outside its rows");
  return result;
}

}  // namespace filigree::test
