#include "formats/packed_matrix.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "base/half.h"
#include "base/status.h"
#include "kernels/linear/expand.h"
#include "kernels/linear/slots.h"

namespace filigree {
namespace {

using linear::Format;
using linear::Layout;
using linear::Matrix;
using linear::MatrixSpec;

constexpr char kMagic[8] = {'F', 'I', 'L', 'G', 'M', 'T', 'R', 'X'};

[[noreturn]] void corrupt(const std::string& what) {
  throw Error(ErrorCode::corrupt_data,
              "packed matrix is damaged: " + what + "; delete it and load the model again");
}

uint64_t units_of(const MatrixSpec& spec) {
  return linear::panel_count(spec) / linear::panels_per_unit(spec.format);
}

// Four independent multiply-rotate lanes over 64-bit words: fast enough to read a model at memory speed, and any flipped bit
// changes the result. Not cryptographic: the cache guards against damage, not against an attacker who can write to it.
uint64_t checksum_of(const std::byte* data, size_t bytes) {
  constexpr uint64_t kMultiplier = 0x9e3779b97f4a7c15ull;
  uint64_t lane[4] = {1, 2, 3, 4};
  const size_t words = bytes / 8;
  for (size_t i = 0; i + 4 <= words; i += 4) {
    uint64_t w[4];
    std::memcpy(w, data + i * 8, 32);
    for (int j = 0; j < 4; ++j) lane[j] = std::rotl((lane[j] ^ w[j]) * kMultiplier, 29);
  }
  uint64_t tail = bytes;
  for (size_t i = words / 4 * 32; i < bytes; ++i)
    tail = (tail ^ static_cast<uint64_t>(data[i])) * kMultiplier;
  for (uint64_t l : lane) tail = std::rotl((tail ^ l) * kMultiplier, 31);
  return tail ^ (tail >> 32);
}

// Bits of a row of masks.
uint64_t masked_elements(const Matrix& m, uint64_t row) {
  const uint64_t bytes = uint64_t{linear::tile_count(m)} * linear::mask_bytes(m.format);
  const std::byte* at = m.masks + row * bytes;
  uint64_t count = 0, word = 0;
  uint64_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    std::memcpy(&word, at + i, 8);
    count += static_cast<uint64_t>(std::popcount(word));
  }
  for (; i < bytes; ++i) count += static_cast<uint64_t>(std::popcount(static_cast<uint8_t>(at[i])));
  return count;
}

void check_bitmask(const Matrix& m, uint64_t value_bytes) {
  const uint64_t units = units_of(m);
  const uint32_t per_unit = linear::panels_per_unit(m.format), rows = linear::masks_per_unit(m);
  uint64_t masked = 0;
  if (m.offsets[0] != 0 || m.offsets[units] != value_bytes) corrupt("offsets do not span the values");
  for (uint64_t u = 0; u < units; ++u) {
    uint64_t longest = 0;
    for (uint32_t i = 0; i < rows; ++i) {
      const uint64_t count = masked_elements(m, u * rows + i);
      longest = std::max(longest, count);
      masked += count;
    }
    if (m.offsets[u + 1] < m.offsets[u] ||
        m.offsets[u + 1] - m.offsets[u] != longest * linear::value_bytes(m.format)) {
      corrupt("masks and offsets disagree at panel " + std::to_string(u * per_unit));
    }
  }
  // A bit that two panels share stands for one nonzero or two.
  if (m.stored < masked || m.stored > masked * per_unit / rows)
    corrupt("masks and the number of stored elements disagree");
}

// Every unit's stream fits its offsets, and no window leaves the padded activations.
void check_slots8(const Matrix& m, uint64_t value_bytes) {
  if (m.format != Format::i8 && (!linear::is_i4(m.format) || m.has_min))
    corrupt("slots8 holds i8, and i4 without minimum");
  const uint64_t units = units_of(m);
  if (m.offsets[0] != 0 || m.offsets[units] != value_bytes) corrupt("offsets do not span the values");
  for (uint64_t u = 0; u < units; ++u) {
    if (m.offsets[u] > m.offsets[u + 1] || m.offsets[u + 1] > value_bytes ||
        !linear::is_slots8_unit(m, m.values + m.offsets[u], m.offsets[u + 1] - m.offsets[u])) {
      corrupt("the slots of unit " + std::to_string(u) + " are not well formed");
    }
  }
}

// The header counts too: a changed number of rows may still fit the same sections.
uint64_t checksum_of(PackedHeader header, const std::byte* blob) {
  header.checksum = 0;
  std::byte bytes[sizeof(header)];
  std::memcpy(bytes, &header, sizeof(header));
  return checksum_of(bytes, sizeof(header)) ^
         checksum_of(blob + kPackedHeaderBytes, header.total_bytes - kPackedHeaderBytes);
}

Matrix point_into(const std::byte* blob, const MatrixSpec& spec, const PackedSections& at, uint64_t stored) {
  Matrix m;
  static_cast<MatrixSpec&>(m) = spec;
  m.values = blob + at.values;
  if (linear::has_masks(spec.layout)) m.masks = blob + at.masks;
  if (spec.layout != Layout::dense) m.offsets = reinterpret_cast<const uint64_t*>(blob + at.offsets);
  if (spec.format == Format::i8) {
    m.row_scales = reinterpret_cast<const float*>(blob + at.row_scales);
    m.code_sums = reinterpret_cast<const int32_t*>(blob + at.code_sums);
  }
  if (linear::is_i4(spec.format)) {
    m.group_scales = reinterpret_cast<const uint16_t*>(blob + at.group_scales);
    if (spec.has_min) m.group_mins = reinterpret_cast<const uint16_t*>(blob + at.group_mins);
  }
  m.stored = stored;
  m.bytes = at.total;
  return m;
}

}  // namespace

PackedSections packed_sections(const MatrixSpec& spec, uint64_t value_bytes) {
  constexpr uint32_t kMost = 1u << 30;
  if (spec.rows == 0 || spec.cols == 0 || spec.rows > kMost || spec.cols > kMost ||
      value_bytes > uint64_t{1} << 48 || uint64_t{spec.rows} * spec.cols > uint64_t{1} << 46) {
    throw Error(ErrorCode::invalid_argument, "cannot pack a matrix of " + std::to_string(spec.rows) + " x " +
                                                 std::to_string(spec.cols) + " weights");
  }
  PackedSections s{};
  uint64_t at = kPackedHeaderBytes;
  const auto section = [&](uint64_t bytes) {
    const uint64_t begin = at;
    at = (at + bytes + 63) / 64 * 64;
    return begin;
  };
  const uint64_t rows = uint64_t{linear::panel_count(spec)} * linear::kPanelRows;
  const bool i8 = spec.format == Format::i8, i4 = linear::is_i4(spec.format);
  s.masks =
      section(linear::has_masks(spec.layout) ? units_of(spec) * linear::masks_per_unit(spec) *
                                                   linear::tile_count(spec) * linear::mask_bytes(spec.format)
                                             : 0);
  s.offsets = section(spec.layout == Layout::dense ? 0 : (units_of(spec) + 1) * sizeof(uint64_t));
  s.row_scales = section(i8 ? rows * sizeof(float) : 0);
  s.code_sums = section(i8 ? rows * sizeof(int32_t) : 0);
  s.group_scales = section(i4 ? rows * linear::group_count(spec) * sizeof(uint16_t) : 0);
  s.group_mins = section(i4 && spec.has_min ? rows * linear::group_count(spec) * sizeof(uint16_t) : 0);
  s.values = section(value_bytes + linear::kValueSlack);
  s.total = at;
  return s;
}

void seal(AlignedBuffer& blob, const MatrixSpec& spec, uint64_t stored, uint64_t value_bytes) {
  const PackedSections at = packed_sections(spec, value_bytes);
  if (blob.size() < at.total) throw Error(ErrorCode::internal, "packed matrix is shorter than its sections");
  PackedHeader h{};
  std::memcpy(h.magic, kMagic, sizeof(kMagic));
  h.version = kPackedVersion;
  h.format = static_cast<uint32_t>(spec.format);
  h.layout = static_cast<uint32_t>(spec.layout);
  h.has_min = spec.has_min;
  h.rows = spec.rows;
  h.cols = spec.cols;
  h.stored = stored;
  h.value_bytes = value_bytes;
  h.total_bytes = at.total;
  h.checksum = checksum_of(h, blob.data());
  std::memcpy(blob.data(), &h, sizeof(h));
}

Matrix view_of(std::span<const std::byte> blob, bool verify_checksum) {
  if (blob.size() < kPackedHeaderBytes) corrupt("shorter than its header");
  if (reinterpret_cast<uintptr_t>(blob.data()) % 64 != 0) {
    throw Error(ErrorCode::invalid_argument, "a packed matrix must be aligned to 64 bytes");
  }
  PackedHeader h;
  std::memcpy(&h, blob.data(), sizeof(h));
  if (std::memcmp(h.magic, kMagic, sizeof(kMagic)) != 0) corrupt("no packed matrix");
  if (h.version != kPackedVersion)
    corrupt("version " + std::to_string(h.version) + ", this program reads " +
            std::to_string(kPackedVersion));
  if (h.format > static_cast<uint32_t>(Format::i4g128) || h.layout > static_cast<uint32_t>(Layout::pairs) ||
      h.has_min > 1) {
    corrupt("unknown format or layout");
  }
  MatrixSpec spec{static_cast<Format>(h.format), static_cast<Layout>(h.layout), h.has_min == 1, h.rows,
                  h.cols};
  if (spec.has_min && !linear::is_i4(spec.format)) corrupt("a minimum on a format without groups");
  PackedSections at;
  try {
    at = packed_sections(spec, h.value_bytes);
  } catch (const Error&) {
    corrupt("impossible shape");
  }
  if (at.total != h.total_bytes || at.total > blob.size()) corrupt("its sections do not fit its length");
  const Matrix m = point_into(blob.data(), spec, at, h.stored);
  const uint64_t dense_values = uint64_t{linear::panel_count(spec)} * linear::tile_count(spec) *
                                linear::kPanelRows * linear::tile_cols(spec.format) *
                                linear::value_bytes(spec.format) / linear::panels_per_unit(spec.format);
  switch (spec.layout) {
    case Layout::dense:
      if (h.value_bytes != dense_values) corrupt("wrong number of values");
      break;
    case Layout::pairs:
      if (!linear::is_i4(spec.format) || spec.has_min) corrupt("pairs hold i4 without minimum");
      [[fallthrough]];
    case Layout::bitmask:
      check_bitmask(m, h.value_bytes);
      break;
    case Layout::slots8:
      check_slots8(m, h.value_bytes);
      break;
    default:
      corrupt("a layout this program does not read");
  }
  if (verify_checksum && checksum_of(h, blob.data()) != h.checksum) corrupt("checksum differs");
  return m;
}

PackedMatrix::PackedMatrix(AlignedBuffer blob, bool verify)
    : buffer_(std::move(blob)), matrix_(view_of({buffer_.data(), buffer_.size()}, verify)) {}

void unpack_rows(const Matrix& m, uint32_t row, uint32_t n, float* out) {
  if (row > m.rows || n > m.rows - row) throw Error(ErrorCode::invalid_argument, "rows outside the matrix");
  const uint32_t tc = linear::tile_cols(m.format);
  const size_t elements = size_t{linear::padded_cols(m)} * linear::kPanelRows;
  std::vector<float> codes(elements);
  std::vector<uint8_t> stored(elements);
  uint32_t expanded = UINT32_MAX;
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t panel = (row + i) / linear::kPanelRows, r = (row + i) % linear::kPanelRows;
    if (panel != expanded) linear::expand_panel(m, panel, codes.data(), stored.data());
    expanded = panel;
    for (uint32_t k = 0; k < m.cols; ++k) {
      const size_t e = (size_t{k / tc} * linear::kPanelRows + r) * tc + k % tc;
      float value = codes[e];
      if (m.format == Format::i8) value *= m.row_scales[row + i];
      if (linear::is_i4(m.format)) {
        const size_t s = (size_t{panel / 2} * linear::group_count(m) + k / linear::group_size(m.format)) * 2 *
                             linear::kPanelRows +
                         panel % 2 * linear::kPanelRows + r;
        value *= f16_to_f32(m.group_scales[s]);
        if (m.has_min && stored[e]) value += f16_to_f32(m.group_mins[s]);
      }
      out[size_t{i} * m.cols + k] = value;
    }
  }
}

}  // namespace filigree
