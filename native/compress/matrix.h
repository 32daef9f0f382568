#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"

namespace filigree {

// A weight matrix expanded to f32, [rows][cols] without padding: output features by input features.
struct DenseMatrix {
  std::string name;
  uint32_t rows = 0, cols = 0;
  AlignedBuffer buffer;

  DenseMatrix() = default;
  DenseMatrix(std::string name, uint32_t rows, uint32_t cols)
      : name(std::move(name)), rows(rows), cols(cols), buffer(size_t{rows} * cols * sizeof(float)) {}

  size_t size() const { return size_t{rows} * cols; }
  float* data() { return buffer.as<float>(); }
  const float* data() const { return buffer.as<float>(); }
  float* row(uint32_t r) { return data() + size_t{r} * cols; }
  const float* row(uint32_t r) const { return data() + size_t{r} * cols; }
};

// One byte an element, [rows][cols]: 1 = the weight is kept, 0 = it is zero for good.
using Mask = std::vector<uint8_t>;

// Integer codes of a matrix: weight = scale * code. 8 bits: codes -127..127, one scale a row. 4 bits: codes -8..7, one scale, exact
// in f16, for every `group` columns of a row (the last group may be shorter).
struct Codes {
  int bits = 0;        // 0: the matrix stays floating point
  uint32_t group = 0;  // columns that share a scale; 0: all of a row
  std::vector<int8_t> values;
  std::vector<float> scales;  // [rows][groups]
};

inline uint32_t group_count(uint32_t cols, uint32_t group) {
  return group == 0 ? 1 : (cols + group - 1) / group;
}

}  // namespace filigree
