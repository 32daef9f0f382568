#pragma once

#include <cstdint>
#include <span>

#include "base/aligned_buffer.h"
#include "kernels/linear/linear.h"

namespace filigree {

// A packed matrix is one contiguous blob: a fixed header (PackedHeader, 256 bytes), then sections that each start on 64
// bytes, in this order: masks, offsets, row scales, code sums, group scales, group minimums, values, slack. Their sizes follow from
// the header alone, so the blob is at once what kernels read and what the packed cache writes to disk.
struct PackedHeader {
  char magic[8];
  uint32_t version;
  uint32_t format, layout, has_min;
  uint32_t rows, cols;
  uint64_t stored;       // as in linear::Matrix
  uint64_t value_bytes;  // length of the values section
  uint64_t total_bytes;  // header and slack included
  uint64_t checksum;     // of the header and of everything after it
};

inline constexpr uint32_t kPackedVersion = 2;
inline constexpr size_t kPackedHeaderBytes = 256;

struct PackedSections {
  uint64_t masks, offsets, row_scales, code_sums, group_scales, group_mins, values,
      total;  // byte offsets into the blob
};
// Throws invalid_argument if the shape is empty or absurd (over 2^31 rows or columns, over 2^48 bytes).
PackedSections packed_sections(const linear::MatrixSpec& spec, uint64_t value_bytes);

class PackedMatrix {
 public:
  PackedMatrix() = default;
  // Takes a blob over after checking it (see view_of). verify = also its checksum.
  explicit PackedMatrix(AlignedBuffer blob, bool verify = true);

  const linear::Matrix& matrix() const { return matrix_; }
  std::span<const std::byte> blob() const { return {buffer_.data(), static_cast<size_t>(matrix_.bytes)}; }
  bool empty() const { return buffer_.empty(); }

 private:
  AlignedBuffer buffer_;
  linear::Matrix matrix_;
};

// The matrix in a blob, which must be 64-byte aligned and outlive the view. Whatever the bytes, a kernel given the result
// stays inside them: sizes, every offset, and the number of bits of every mask are checked (and, if asked, the checksum).
// Throws corrupt_data saying what does not fit.
linear::Matrix view_of(std::span<const std::byte> blob, bool verify_checksum);

// Writes magic, sizes and checksum into a blob whose sections are complete.
void seal(AlignedBuffer& blob, const linear::MatrixSpec& spec, uint64_t stored, uint64_t value_bytes);

// Expands rows [row, row + n) to f32 [n][cols] (tests, inspection, embedding look-up).
void unpack_rows(const linear::Matrix& matrix, uint32_t row, uint32_t n, float* out);

}  // namespace filigree
