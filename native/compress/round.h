#pragma once

#include "compress/matrix.h"

namespace filigree {

class ThreadPool;

// How scales are chosen where codes are the nearest ones. Zeros stay zeros under both.
//   largest  8 bits: max |w| of the row / 127; 4 bits: f16(max |w| of the group / 7); codes by division, ties to even. The rule of
//            models/recipes/quantize.py.
//   search   what the engine does when it loads floating-point weights (formats/quantize_rows.h): 8 bits as above, 4 bits the f16
//            scale of least squared error over a small search.
// A model that was trained for one of them keeps its codes under it.
enum class ScaleRule { largest, search };

// Codes nearest to the weights: -127..127 of 8 bits, one scale a row; -8..7 of 4, one for every `group` columns.
// Throws invalid_argument unless bits is 4 or 8.
Codes round_nearest(const DenseMatrix& weight, int bits, uint32_t group, ScaleRule rule, ThreadPool& pool);

// Replaces the values by scale * code.
void apply_codes(const Codes& codes, DenseMatrix& weight, ThreadPool& pool);

}  // namespace filigree
