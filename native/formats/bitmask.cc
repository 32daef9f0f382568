#include "formats/bitmask.h"

#include <bit>

namespace filigree {

Bitmask::Bitmask(const TensorDesc& desc, Extent extent, std::span<const File> files, uint64_t stored,
                 uint64_t row_align)
    : name_(desc.name), extent_(extent), row_align_(row_align), mask_(desc, "bitmask", files) {
  mask_.require_dtype({"u8"});
  mask_.require_bytes(extent.rows * row_bytes());
  // Only now is the number of rows bounded by the file.
  offsets_.resize(extent.rows + 1);
  if (desc.parts.contains("row_offsets")) {
    const PartView part(desc, "row_offsets", files);
    part.require_dtype({"i64", "i32"});
    const std::vector<int64_t> offsets = part.read_all_integers();
    if (offsets.size() != extent.rows)
      fail_corrupt(name_, "has " + std::to_string(offsets.size()) + " row offsets for " +
                              std::to_string(extent.rows) + " rows");
    for (uint64_t r = 0; r < extent.rows; r++)
      offsets_[r] = static_cast<uint64_t>(offsets[r]);  // negative: fails below
  } else {
    if (extent.cols % 4 != 0) fail_corrupt(name_, "is 2:4 sparse, yet its columns are not a multiple of 4");
    for (uint64_t r = 0; r < extent.rows; r++) offsets_[r] = r * (extent.cols / 2);
  }
  offsets_[extent.rows] = stored;
  if (offsets_[0] != 0) fail_corrupt(name_, "its first row offset is not 0");
  const uint64_t longest = ceil_div(extent.cols, row_align) * row_align;
  for (uint64_t r = 0; r < extent.rows; r++) {
    const uint64_t begin = offsets_[r], end = offsets_[r + 1];
    if (begin > end || end > stored || end - begin > longest || begin % row_align != 0) {
      fail_corrupt(name_, "row " + std::to_string(r) + " begins at stored element " +
                              std::to_string(static_cast<int64_t>(begin)) + " and ends at " +
                              std::to_string(static_cast<int64_t>(end)) + " of " + std::to_string(stored));
    }
  }
}

void Bitmask::read(uint64_t row, uint64_t n, uint8_t* bits) const {
  const uint64_t bytes = row_bytes();
  mask_.read(row * bytes, bits, n * bytes);
  for (uint64_t i = 0; i < n; i++) {
    const uint8_t* line = bits + i * bytes;
    if (extent_.cols % 8 != 0 && (line[bytes - 1] >> (extent_.cols % 8)) != 0)
      fail_corrupt(name_, "its mask has bits past the last column");
    uint64_t count = 0;
    for (uint64_t b = 0; b < bytes; b++) count += static_cast<uint64_t>(std::popcount(line[b]));
    if (ceil_div(count, row_align_) * row_align_ != offsets_[row + i + 1] - offsets_[row + i]) {
      fail_corrupt(name_, "the mask of row " + std::to_string(row + i) + " has " + std::to_string(count) +
                              " bits where " + std::to_string(offsets_[row + i + 1] - offsets_[row + i]) +
                              " elements are stored");
    }
  }
}

}  // namespace filigree
