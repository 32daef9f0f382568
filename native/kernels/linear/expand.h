#pragma once

#include "kernels/linear/linear.h"

namespace filigree::linear {

// Decodes one panel to dense order, tile by tile: codes [tile][16 * tile_cols] are the weights themselves (f32, bf16) or the
// integer codes u' of linear.h; stored is 1 where the element is stored (dense: everywhere), else 0 with code 0.
// Plain scalar code, the definition of the layouts.
void expand_panel(const Matrix& matrix, uint32_t panel, float* codes, uint8_t* stored);

}  // namespace filigree::linear
