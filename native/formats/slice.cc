#include "formats/slice.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "base/status.h"

namespace filigree {
namespace {

using linear::Format;
using linear::kPanelRows;

// Bytes of one tile of a panel (i4: of a pair of panels), whatever the format; a row has four of them.
constexpr size_t kTileBytes = 64;
constexpr size_t kRowBytes = kTileBytes / kPanelRows;

void check_ranges(const linear::Matrix& m, std::span<const Range> rows, Range columns) {
  bool ok = m.layout == linear::Layout::dense && !rows.empty() && columns.begin < columns.end &&
            columns.end <= m.cols && columns.begin % column_unit(m) == 0 &&
            (columns.end % column_unit(m) == 0 || columns.end == m.cols);
  for (const Range& r : rows) ok = ok && r.begin < r.end && r.end <= m.rows;
  if (!ok)
    throw Error(ErrorCode::invalid_argument, "columns " + std::to_string(columns.begin) + " to " +
                                                 std::to_string(columns.end) + " cannot be cut out of a " +
                                                 linear::name_of(m.format) + " matrix of " +
                                                 std::to_string(m.rows) + " x " + std::to_string(m.cols));
}

class Slicer {
 public:
  Slicer(const linear::Matrix& from, std::span<const Range> rows, Range columns)
      : from_(from), unit_(linear::panels_per_unit(from.format) * kPanelRows), columns_(columns) {
    for (const Range& r : rows) {
      for (uint32_t row = r.begin; row < r.end; ++row) rows_.push_back(row);
    }
    spec_ = {from.format, from.layout, from.has_min, static_cast<uint32_t>(rows_.size()), columns.size()};
    tiles_ = linear::tile_count(spec_);
    from_tiles_ = linear::tile_count(from);
    first_tile_ = columns.begin / linear::tile_cols(from.format);
    value_bytes_ =
        size_t{linear::panel_count(spec_)} / linear::panels_per_unit(spec_.format) * tiles_ * kTileBytes;
    at_ = packed_sections(spec_, value_bytes_);
    blob_ = AlignedBuffer(at_.total);
  }

  PackedMatrix run() {
    if (linear::is_i4(spec_.format) && !spec_.has_min)  // codes of padding rows: nothing
      std::memset(blob_.data() + at_.values, 0x88, value_bytes_);
    for (uint32_t row = 0; row < spec_.rows;) {
      if (row % unit_ == 0 && whole_unit(row)) {
        std::memcpy(values() + size_t{row / unit_} * tiles_ * kTileBytes,
                    from_.values + (size_t{rows_[row] / unit_} * from_tiles_ + first_tile_) * kTileBytes,
                    tiles_ * kTileBytes);
        row += unit_;
      } else {
        copy_row(row++);
      }
    }
    if (spec_.format == Format::i8) scale_rows();
    if (linear::is_i4(spec_.format)) {
      copy_groups(at_.group_scales, from_.group_scales);
      if (spec_.has_min) copy_groups(at_.group_mins, from_.group_mins);
    }
    seal(blob_, spec_, uint64_t{spec_.rows} * spec_.cols, value_bytes_);
    return PackedMatrix(std::move(blob_), false);
  }

 private:
  std::byte* values() { return blob_.data() + at_.values; }

  // Whether a unit of rows lies together, and alike, in the whole matrix.
  bool whole_unit(uint32_t row) const {
    return row + unit_ <= spec_.rows && rows_[row] % unit_ == 0 &&
           rows_[row + unit_ - 1] == rows_[row] + unit_ - 1;
  }

  void copy_row(uint32_t row) {
    const uint32_t source = rows_[row];
    std::byte* to = values() + size_t{row / unit_} * tiles_ * kTileBytes + row % kPanelRows * kRowBytes;
    const std::byte* from = from_.values + (size_t{source / unit_} * from_tiles_ + first_tile_) * kTileBytes +
                            source % kPanelRows * kRowBytes;
    // The two panels of a pair have a half of each byte.
    const uint32_t to_shift = row % unit_ / kPanelRows * 4, from_shift = source % unit_ / kPanelRows * 4;
    for (uint32_t tile = 0; tile < tiles_; ++tile, to += kTileBytes, from += kTileBytes) {
      uint32_t codes = 0;
      std::memcpy(&codes, from, sizeof codes);
      if (linear::is_i4(spec_.format)) {
        uint32_t both = 0;
        std::memcpy(&both, to, sizeof both);
        codes = (both & ~(0x0f0f0f0fu << to_shift)) | (codes >> from_shift & 0x0f0f0f0fu) << to_shift;
      }
      std::memcpy(to, &codes, sizeof codes);
    }
  }

  void scale_rows() {
    float* const scales = reinterpret_cast<float*>(blob_.data() + at_.row_scales);
    int32_t* const sums = reinterpret_cast<int32_t*>(blob_.data() + at_.code_sums);
    for (uint32_t row = 0; row < spec_.rows; ++row) {
      scales[row] = from_.row_scales[rows_[row]];
      const std::byte* codes =
          values() + size_t{row / kPanelRows} * tiles_ * kTileBytes + row % kPanelRows * kRowBytes;
      int32_t sum = 0;
      for (uint32_t tile = 0; tile < tiles_; ++tile, codes += kTileBytes) {
        for (size_t i = 0; i < kRowBytes; ++i) sum += static_cast<int8_t>(codes[i]);
      }
      sums[row] = sum;
    }
  }

  // Scales or minimums [pair][group][32 rows].
  void copy_groups(uint64_t section, const uint16_t* from) {
    uint16_t* const to = reinterpret_cast<uint16_t*>(blob_.data() + section);
    const size_t groups = linear::group_count(spec_), from_groups = linear::group_count(from_);
    const size_t first = columns_.begin / linear::group_size(spec_.format);
    for (uint32_t row = 0; row < spec_.rows; ++row) {
      for (size_t g = 0; g < groups; ++g) {
        to[(row / unit_ * groups + g) * unit_ + row % unit_] =
            from[(rows_[row] / unit_ * from_groups + first + g) * unit_ + rows_[row] % unit_];
      }
    }
  }

  const linear::Matrix& from_;
  uint32_t unit_;
  Range columns_;
  std::vector<uint32_t> rows_;  // of the whole matrix, in the order of the slice
  linear::MatrixSpec spec_;
  uint32_t tiles_, from_tiles_, first_tile_;
  size_t value_bytes_;
  PackedSections at_;
  AlignedBuffer blob_;
};

}  // namespace

uint32_t column_unit(const linear::MatrixSpec& spec) {
  return linear::is_i4(spec.format) ? linear::group_size(spec.format) : linear::tile_cols(spec.format);
}

PackedMatrix slice(const linear::Matrix& m, std::span<const Range> rows, Range columns) {
  check_ranges(m, rows, columns);
  return Slicer(m, rows, columns).run();
}

}  // namespace filigree
