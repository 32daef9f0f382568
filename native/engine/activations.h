#pragma once

#include "base/aligned_buffer.h"
#include "engine/weights.h"
#include "kernels/quantize/quantize.h"

namespace filigree {

// The input of a projection in every form that its matrices multiply: f32 as it stands, bf16, i8 with scales and group sums.
// One set of buffers serves all projections of a step in turn.
class Activations {
 public:
  // For inputs of up to max_rows rows and max_cols columns.
  Activations(uint32_t max_rows, uint32_t max_cols, const QuantizeOps& ops);

  // Announces the next input: rows [rows] x projection.in at `source`, rows source_stride floats apart.
  void begin(const Projection& projection, const float* source, size_t source_stride, uint32_t rows);
  // Converts one row; rows are independent.
  void convert(uint32_t row);
  linear::Input input(const linear::Matrix& matrix) const;

 private:
  QuantizeOps ops_;
  size_t sum_capacity_[2];  // group sums per row, for groups of 32 and 128
  AlignedBuffer bf16_, i8_, scales_, sums_[2];

  const Projection* projection_ = nullptr;
  const float* source_ = nullptr;
  size_t source_stride_ = 0, stride_ = 0;
  uint32_t rows_ = 0;
};

}  // namespace filigree
