#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "formats/pack.h"
#include "harness.h"
#include "kernels/linear/linear.h"

// Matrices and activations for the tests of linear layers.
namespace filigree::test {

// Rows held in memory, optionally with 4- or 8-bit codes and a mask of their own.
class MemoryRows : public RowSource {
 public:
  MemoryRows(uint32_t rows, uint32_t cols) : rows_(rows), cols_(cols), values(size_t{rows} * cols) {}
  uint64_t rows() const override { return rows_; }
  uint64_t cols() const override { return cols_; }
  void read_f32(uint64_t row, uint64_t n, float* out) const override;
  std::optional<SourceCodes> codes() const override { return source_codes; }
  void read_codes(uint64_t row, uint64_t n, int8_t* codes, float* scales, float* mins) const override;
  bool masked() const override { return !stored.empty(); }
  void read_mask(uint64_t row, uint64_t n, uint8_t* bits) const override;

  // Gives the rows random codes in this format (values follow from them); zeros are left out when masked.
  void randomize_codes(Random& random, SourceCodes codes, double zeros, bool masked);

 private:
  uint32_t rows_, cols_;

 public:
  std::vector<float> values;
  std::vector<uint8_t> stored;  // empty: not masked
  std::optional<SourceCodes> source_codes;
  std::vector<int8_t> code;
  std::vector<float> scale, min;
};

// Normal weights with the given fraction of zeros; some rows empty and some full when `extremes`.
MemoryRows random_rows(Random& random, uint32_t rows, uint32_t cols, double zeros, bool extremes = false);

// Activations of `tokens` tokens in every form, quantized as the engine does, at a deliberately odd alignment.
class Activations {
 public:
  Activations(Random& random, uint32_t tokens, uint32_t cols, linear::Format format);
  // Tokens [first, first + count).
  linear::Input view(uint32_t first, uint32_t count) const;

 private:
  uint32_t tokens_, cols_, groups_;
  size_t stride_, group_stride_;
  std::vector<float> f32_, scales_;
  std::vector<uint16_t> bf16_;
  std::vector<int8_t> i8_;
  std::vector<int32_t> sums_;
};

PackedMatrix pack_rows(const MemoryRows& rows, linear::Format format, std::optional<linear::Layout> layout,
                       int threads = 1);

// out [tokens][rows] by one kernel over panels [begin, end), cut at `cut` (0: one call). The output is surrounded by guards
// and everything that must stay untouched is checked.
std::vector<float> run_variant(const linear::Variant& variant, const linear::Matrix& matrix,
                               const linear::Input& input, uint32_t cut = 0);

}  // namespace filigree::test
