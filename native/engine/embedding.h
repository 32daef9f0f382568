#pragma once

#include "kernels/linear/linear.h"

namespace filigree {

// Row `row` of a packed matrix as f32 [cols]: the embedding of a token. A dense row is gathered where it lies; a sparse panel
// has to be expanded first, into scratch of embedding_scratch_bytes (0 for dense matrices).
size_t embedding_scratch_bytes(const linear::Matrix& matrix);
void read_embedding(const linear::Matrix& matrix, uint32_t row, float* out, std::byte* scratch);

}  // namespace filigree
