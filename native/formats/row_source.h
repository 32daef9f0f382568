#pragma once

#include <cstdint>
#include <optional>

namespace filigree {

// The file's own quantization, when it is one that the engine's formats can take over code by code.
struct SourceCodes {
  int bits = 8;          // 8 or 4
  int group = 0;         // columns that share a scale; 0 = the whole row
  bool has_min = false;
};

// Rows of a weight matrix, whatever they are stored as. All reads are thread-safe and throw Error.
class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual uint64_t rows() const = 0;
  virtual uint64_t cols() const = 0;

  // Rows [row, row + n) as f32, out [n][cols].
  virtual void read_f32(uint64_t row, uint64_t n, float* out) const = 0;

  // value = scale * code + min. 8 bit: code -127..127; 4 bit: -8..7, with minimum 0..15. codes [n][cols], scales and mins
  // [n][ceil(cols / group)] (or [n] when group is 0); mins only with has_min.
  virtual std::optional<SourceCodes> codes() const { return std::nullopt; }
  virtual void read_codes(uint64_t row, uint64_t n, int8_t* codes, float* scales, float* mins) const {}

  // Bitmask formats: which elements are stored, even where a stored value is 0. bits [n][ceil(cols / 8)], least significant first.
  virtual bool masked() const { return false; }
  virtual void read_mask(uint64_t row, uint64_t n, uint8_t* bits) const {}
};

}  // namespace filigree
