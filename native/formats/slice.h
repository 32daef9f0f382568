#pragma once

#include <span>

#include "formats/packed_matrix.h"

namespace filigree {

struct Range {
  uint32_t begin = 0, end = 0;
  uint32_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

// Columns at which a matrix may be cut: whole tiles, and whole groups where scales belong to groups.
uint32_t column_unit(const linear::MatrixSpec& spec);

// The given rows, one range after another, and the given columns of a dense matrix as a matrix of its own, with the same codes,
// scales and minimums: the sums of all its slices along K are the whole matrix's sums. columns.begin is a multiple of
// column_unit(), columns.end one or the last. Throws invalid_argument where a range is empty or does not fit, or the layout is
// sparse.
PackedMatrix slice(const linear::Matrix& m, std::span<const Range> rows, Range columns);

}  // namespace filigree
