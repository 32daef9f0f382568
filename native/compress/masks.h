#pragma once

#include <cstddef>

#include "compress/matrix.h"
#include "compress/solve.h"

namespace filigree {

// The k-th smallest, k from 0, of n values that are not negative: by counting their bits, on all threads.
float kth_smallest(ThreadPool& pool, const float* values, size_t n, size_t k);

// The k-th smallest of a few values; they are reordered.
float kth_of_few(float* values, size_t n, size_t k);

// Marks what goes: scores [rows][cols], not negative, the higher the more a weight is worth. Unstructured and blocks: the least
// share `sparsity` of the whole matrix; N:M: the least of every group of columns. Columns that `dead` marks always go.
void choose_mask(ThreadPool& pool, const Pattern& pattern, double sparsity, const float* scores,
                 uint32_t rows, uint32_t cols, const std::vector<bool>& dead, Mask& mask);

// The same row by row: the least share of each row (Wanda's comparison group).
void choose_mask_by_row(ThreadPool& pool, const Pattern& pattern, double sparsity, const float* scores,
                        uint32_t rows, uint32_t cols, const std::vector<bool>& dead, Mask& mask);

// The least (of - keep) of one group of `of` scores are cleared in `keep_out`.
void choose_group(const float* scores, uint32_t n, uint32_t keep, uint8_t* keep_out);

void apply_mask(ThreadPool& pool, const Mask& mask, DenseMatrix& weight);

}  // namespace filigree
