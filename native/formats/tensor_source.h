#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"

namespace filigree {

// Tensors where they lie on disk, read row by row.
//
// A description (from the TypeScript readers, trusted in nothing) says which byte ranges of which files make
// up a tensor and how they are encoded; a RowSource yields rows as f32, as the file's own integer codes where
// those are a format of ours, and as the file's own mask. Reading copies (pread): see base/file.h for why
// nothing is mapped.

// A byte range of one file, itself a little tensor.
struct TensorPart {
  int file = 0;         // index into the files given to open_rows
  uint64_t offset = 0;  // bytes from the start of the file
  uint64_t bytes = 0;
  std::string dtype;  // f32 f16 bf16 i8 u8 i16 i32 i64, or a GGUF block type
  std::vector<uint64_t> shape;
};

// encoding                       parts
// f32 f16 bf16                   data [rows, cols]
// q8_0 q4_0 q4_1 q5_0 q5_1       data: GGUF blocks of 32 along a row
// q4_k q5_k q6_k                 data: GGUF blocks of 256 along a row
// int-quantized                  weight i8 [rows, cols], scale, [zero_point], [g_idx]
// pack-quantized                 packed i32 [rows, ceil(cols / (32 / bits))], scale, [zero_point], [g_idx]
// bitmask                        compressed [nnz], bitmask u8 [rows, ceil(cols / 8)] LSB first, row_offsets i64 [rows]
// sparse-24-bitmask              compressed [rows, cols / 2], bitmask: two of every four columns are stored
// bitmask+int-quantized          compressed i8, bitmask, [row_offsets], scale, [zero_point]
// bitmask+pack-quantized         compressed u8 (two 4-bit codes + 8 a byte, low half first; every row starts on a byte),
//                                bitmask, row_offsets i64 [rows] (in codes), scale, [zero_point]
// random                         no parts: values of deviation 0.02 drawn from `seed`, to benchmark a shape
//
// scale is [1], [rows], [rows, 1] or [rows, groups]; a zero point is i8 of the scale's shape, or (pack-quantized) i32 packed
// along the rows [ceil(rows / (32 / bits)), groups]. g_idx i32 [cols] assigns columns to groups.
struct TensorDesc {
  std::string name;
  std::vector<uint64_t> shape;  // [rows, cols], or [n]: one row
  std::string encoding;
  std::map<std::string, TensorPart> parts;
  int group_size = 0;  // columns that share a scale; 0: all of a row
  bool symmetric = true;
  int bits = 0;            // of one code of a quantized encoding
  int permuted_heads = 0;  // GGUF q/k rows of Llama: number of heads whose rows are interleaved; 0: in order
  uint64_t seed = 0;       // random: where its values are drawn from
  double zeros = 0;        // random: fraction of zeros, 0 <= zeros < 1
};

struct SourceCodes {
  int bits = 8;  // 8 or 4
  int group =
      0;  // columns that share a scale (32 or 128; the last group of a row may be shorter); 0: the whole row
  bool has_min = false;  // value = scale * code + min, else scale * code
};

// Rows of a weight matrix, whatever they are stored as. All reads may be made from several threads at once
// and throw Error: io when the file is gone or shorter than it was, corrupt_data when what is read
// contradicts itself, invalid_argument for rows out of range and for codes or a mask that the source does not
// have.
class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual uint64_t rows() const = 0;
  virtual uint64_t cols() const = 0;

  // Rows [row, row + n) as [n][cols].
  virtual void read_f32(uint64_t row, uint64_t n, float* out) const = 0;

  // The source's own quantization, if it can be kept without rounding again; nullopt otherwise.
  virtual std::optional<SourceCodes> codes() const { return std::nullopt; }

  // codes [n][cols]; scales and mins [n][groups] (mins may be null unless has_min), groups = group ?
  // ceil(cols / group) : 1. 8 bit: -127..127 (a row of the file that holds -128 is rescaled by 127/128, its
  // one second rounding); 4 bit without minimum: -8..7; 4 bit with minimum: 0..15. An element that masked()
  // leaves out has code 0 and is exactly zero whatever the minimum of its group.
  virtual void read_codes(uint64_t row, uint64_t n, int8_t* codes, float* scales, float* mins) const;

  // Whether the file says itself which elements exist. A stored element may still be 0.
  virtual bool masked() const { return false; }
  // bits [n][ceil(cols / 8)], least significant first, bits past cols clear.
  virtual void read_mask(uint64_t row, uint64_t n, uint8_t* bits) const;
};

// Checks every shape, length, offset and dtype against each other and against the files, then opens. `files`
// must outlive the source. Nothing of the tensor is resident but its row offsets and scales. Throws Error
// naming the tensor: corrupt_data (something disagrees), unsupported (unknown encoding), invalid_argument (no
// such file index).
std::unique_ptr<RowSource> open_rows(const TensorDesc& desc, std::span<const File> files);

}  // namespace filigree
