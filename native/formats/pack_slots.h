#pragma once

#include <cstddef>
#include <cstdint>

namespace filigree {

// Packs up to 16 rows of i8 codes [rows][cols] as one panel in the layout slots8 (kernels/linear/slots.h). Returns the stream's
// length in bytes; with out == nullptr nothing is written.
size_t pack_slots8(const int8_t* codes, uint32_t rows, uint32_t cols, std::byte* out);

// The same for up to 32 rows of i4 nibbles u (weight = scale * (u - 8)) in groups of `group` columns: a pair of panels.
size_t pack_slots8_i4(const int8_t* nibbles, uint32_t rows, uint32_t cols, uint32_t group, std::byte* out);

}  // namespace filigree
