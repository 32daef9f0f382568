#pragma once

#include <cstddef>
#include <cstdint>

namespace filigree {

// Packs up to 16 rows of i8 codes [rows][cols] as one panel in the layout slots8 (kernels/linear/slots.h). Returns the stream's
// length in bytes; with out == nullptr nothing is written.
size_t pack_slots8(const int8_t* codes, uint32_t rows, uint32_t cols, std::byte* out);

}  // namespace filigree
