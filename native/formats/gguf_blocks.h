#pragma once

#include <cstdint>
#include <string_view>

namespace filigree {

// GGUF's quantized blocks (ggml's ggml-common.h and dequantize_row_*; all little endian). d, m and dmin are
// f16.
//
//   q8_0  d, i8[32]                                    x = d * q
//   q4_0  d, u4[32]                                    x = d * (q - 8)
//   q4_1  d, m, u4[32]                                 x = d * q + m
//   q5_0  d, high bits u32, u4[32]                     x = d * (q - 16)
//   q5_1  d, m, high bits u32, u4[32]                  x = d * q + m
//   q4_k  d, dmin, 8 x (6-bit sc, 6-bit mn), u4[256]   x = (d * sc) * q - dmin * mn, groups of 32
//   q5_k  the same with 256 high bits before the u4
//   q6_k  u4[256], 2 high bits [256], i8 sc[16], d     x = (d * sc) * (q - 32), groups of 16
// Nibbles: element j of a group of 32 is the low half of byte j % 16 for j < 16, else the high half (q4_k and
// q5_k: 64 elements share 32 bytes, low halves first).
//
// Arithmetic is f32 in the order written, as in ggml's reference, so the values are the same to the bit.
struct GgufBlock {
  std::string_view name;
  uint32_t elements;
  uint32_t bytes;
  void (*dequantize)(const uint8_t* block, float* out);  // [elements]
  // Codes of groups of 32 that need no second rounding: codes [elements], scales and mins [elements / 32].
  // Null where the type has none. Without a minimum (mins is null) codes are -8..7, with one 0..15.
  void (*codes)(const uint8_t* block, int8_t* codes, float* scales, float* mins);
  bool has_min;
};

// Null for a name that is not a block type.
const GgufBlock* find_gguf_block(std::string_view name);

}  // namespace filigree
