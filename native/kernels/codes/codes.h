#pragma once

#include <cstddef>
#include <cstdint>

namespace filigree {

struct CpuFeatures;

inline constexpr uint32_t kCodeBlock = 128;  // columns of a block, at most

// What choosing the codes of one block of one row needs to know (compress/refine.h), borrowed.
struct CodeBlock {
  const float* h;  // of the block's columns [width][width], rows `stride` apart, symmetric
  size_t stride;
  uint32_t width;         // <= kCodeBlock
  const uint8_t* keep;    // [width]; where it is 0 the value is and stays 0
  const float* gradient;  // [width], half that of the whole error
  float low, high;        // of the codes
  bool scales;            // the scale may change, within f16
  int trials;             // trial scales on either side of the one there is, `step` of it apart
  float step;
};

// Chooses better codes for a block, and with block.scales a better scale. code, values [width]: as they are, values = scale * code;
// where the block's error falls by more than 1e-5 of it they are replaced, change [width] becomes new values - old where a column is
// kept, and true is returned. Otherwise nothing is written. scale is not 0. workspace: code_workspace_floats.
using ImproveBlockFn = bool (*)(const CodeBlock& block, float* workspace, float* values, int8_t* code,
                                float* scale, float* change);
inline constexpr size_t code_workspace_floats = 3 * size_t{kCodeBlock} * kCodeBlock;

// x[i] -= factor * y[i], rounded twice.
using SubtractFn = void (*)(float* x, const float* y, float factor, size_t n);

struct CodeOps {
  const char* variant;
  ImproveBlockFn improve_block;
  SubtractFn subtract;
};

// All variants agree bit for bit.
CodeOps select_codes(const CpuFeatures& cpu);

}  // namespace filigree
