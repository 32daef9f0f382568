#include "engine/embedding.h"

#include "base/half.h"
#include "kernels/linear/expand.h"

namespace filigree {
namespace {

using linear::Format;
using linear::kPanelRows;
using linear::Matrix;

// The row's elements in units of Value, tile by tile: visit(column, value).
template <class Value, class Visit>
void walk_dense(const Matrix& m, uint32_t row, Visit visit) {
  const uint32_t tile = linear::tile_cols(m.format), tiles = linear::tile_count(m);
  const Value* at = reinterpret_cast<const Value*>(m.values) +
                    size_t{row / kPanelRows} * tiles * kPanelRows * tile + size_t{row % kPanelRows} * tile;
  for (uint32_t t = 0, k = 0; k < m.cols; ++t, at += size_t{kPanelRows} * tile) {
    for (uint32_t c = 0; c < tile && k < m.cols; ++c, ++k) visit(k, at[c]);
  }
}

// Scale and minimum of a column's group in an i4 matrix.
struct Group {
  float scale, minimum;
};
Group group_of(const Matrix& m, uint32_t row, uint32_t group) {
  const size_t i = (size_t{row / (2 * kPanelRows)} * linear::group_count(m) + group) * 2 * kPanelRows +
                   row % (2 * kPanelRows);
  return {f16_to_f32(m.group_scales[i]), m.has_min ? f16_to_f32(m.group_mins[i]) : 0.0f};
}

void read_dense_i4(const Matrix& m, uint32_t row, float* out) {
  const uint32_t tiles = linear::tile_count(m), size = linear::group_size(m.format);
  const uint8_t* at = reinterpret_cast<const uint8_t*>(m.values) +
                      size_t{row / (2 * kPanelRows)} * tiles * 64 + size_t{row % kPanelRows} * 4;
  const int shift = row / kPanelRows % 2 ? 4 : 0;
  const float zero = m.has_min ? 0.0f : 8.0f;
  for (uint32_t k = 0; k < m.cols;) {
    const Group group = group_of(m, row, k / size);
    for (const uint32_t end = k + size < m.cols ? k + size : m.cols; k < end; ++k) {
      const float code = static_cast<float>(at[size_t{k / 4} * 64 + k % 4] >> shift & 15) - zero;
      out[k] = group.scale * code + group.minimum;
    }
  }
}

void read_sparse(const Matrix& m, uint32_t row, float* out, std::byte* scratch) {
  const size_t elements = size_t{linear::padded_cols(m)} * kPanelRows;
  float* codes = reinterpret_cast<float*>(scratch);
  uint8_t* stored = reinterpret_cast<uint8_t*>(codes + elements);
  linear::expand_panel(m, row / kPanelRows, codes, stored);
  const uint32_t tile = linear::tile_cols(m.format), r = row % kPanelRows;
  for (uint32_t k = 0; k < m.cols; ++k) {
    const size_t e = (size_t{k / tile} * kPanelRows + r) * tile + k % tile;
    float value = codes[e];
    if (m.format == Format::i8) value *= m.row_scales[row];
    if (linear::is_i4(m.format)) {
      const Group group = group_of(m, row, k / linear::group_size(m.format));
      value = stored[e] ? value * group.scale + group.minimum : 0.0f;
    }
    out[k] = value;
  }
}

}  // namespace

size_t embedding_scratch_bytes(const Matrix& m) {
  if (m.layout == linear::Layout::dense) return 0;
  return size_t{linear::padded_cols(m)} * kPanelRows * (sizeof(float) + 1);
}

void read_embedding(const Matrix& m, uint32_t row, float* out, std::byte* scratch) {
  if (m.layout != linear::Layout::dense) return read_sparse(m, row, out, scratch);
  switch (m.format) {
    case Format::f32:
      return walk_dense<float>(m, row, [&](uint32_t k, float w) { out[k] = w; });
    case Format::bf16:
      return walk_dense<uint16_t>(m, row, [&](uint32_t k, uint16_t w) { out[k] = bf16_to_f32(w); });
    case Format::i8:
      return walk_dense<int8_t>(
          m, row, [&](uint32_t k, int8_t w) { out[k] = static_cast<float>(w) * m.row_scales[row]; });
    case Format::i4g32:
    case Format::i4g128:
      return read_dense_i4(m, row, out);
  }
}

}  // namespace filigree
