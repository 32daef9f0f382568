#pragma once

#include <atomic>
#include <optional>
#include <span>

#include "formats/packed_matrix.h"
#include "formats/tensor_source.h"

namespace filigree {

class ThreadPool;
struct CpuFeatures;

struct PackOptions {
  linear::Format format = linear::Format::f32;
  // Left out: chosen by choose_layout from the zeros that are counted.
  std::optional<linear::Layout> layout;
  // Rows packed so far, for a progress bar; may be null.
  std::atomic<uint64_t>* rows_done = nullptr;
};

// Packs the rows of `parts`, one after another (q, k and v become one matrix), streaming a panel at a time: a thread holds 32 rows
// of f32 and nothing is ever expanded whole. The bytes do not depend on the number of threads.
//
// Codes that the file already holds in this format (8 bits a row for i8; 4 bits in groups that a whole number of ours divides) are taken over with
// their scales (i4: rounded to f16) and minimums. Otherwise values are quantized: i8 per row, absmax / 127; i4 per group, the scale that minimizes
// the squared error over a small search, as llama.cpp's make_qx_quants. An element is stored in a sparse layout when it contributes: its value (or code)
// is not zero, or, with a minimum, when the source stores it.
// Throws Error: corrupt_data for non-finite weights, invalid_argument for parts of different widths, and what the source throws.
PackedMatrix pack(std::span<const RowSource* const> parts, const PackOptions& options, const CpuFeatures& cpu,
                  ThreadPool& threads);

}  // namespace filigree
