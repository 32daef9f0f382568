// Scalar kernels for every format and layout: the definition the others are tested against, and `--isa scalar`.
#include <cmath>

#include "base/half.h"
#include "kernels/linear/expand.h"
#include "kernels/linear/linear.h"

namespace filigree::linear {
namespace {

size_t panel_elements(const MatrixSpec& m) { return size_t{padded_cols(m)} * kPanelRows; }

float activation(const float* row, uint32_t k) { return row[k]; }
float activation(const uint16_t* row, uint32_t k) { return bf16_to_f32(row[k]); }

// f32 and bf16: one fused multiply-add after the other, k ascending.
template <class X>
void run_float(const Matrix& m, const X* x, const Input& in, uint32_t panel_begin, uint32_t panel_end,
               float* out, size_t out_stride, std::byte* workspace) {
  float* codes = reinterpret_cast<float*>(workspace);
  uint8_t* stored = reinterpret_cast<uint8_t*>(codes + panel_elements(m));
  const uint32_t tc = tile_cols(m.format);
  for (uint32_t panel = panel_begin; panel < panel_end; ++panel) {
    expand_panel(m, panel, codes, stored);
    for (uint32_t t = 0; t < in.tokens; ++t) {
      const X* row = x + t * in.stride;
      for (uint32_t r = 0; r < kPanelRows && panel * kPanelRows + r < m.rows; ++r) {
        float acc = 0.0f;
        for (uint32_t k = 0; k < m.cols; ++k) {
          acc = std::fma(codes[(size_t{k / tc} * kPanelRows + r) * tc + k % tc], activation(row, k), acc);
        }
        out[t * out_stride + panel * kPanelRows + r] = acc;
      }
    }
  }
}

}  // namespace

size_t reference_workspace(const MatrixSpec& m, uint32_t) { return panel_elements(m) * (sizeof(float) + 1); }

void reference_f32(const Matrix& m, const Input& in, uint32_t panel_begin, uint32_t panel_end, float* out,
                   size_t out_stride, std::byte* workspace) {
  run_float(m, in.f32, in, panel_begin, panel_end, out, out_stride, workspace);
}

void reference_bf16(const Matrix& m, const Input& in, uint32_t panel_begin, uint32_t panel_end, float* out,
                    size_t out_stride, std::byte* workspace) {
  run_float(m, in.bf16, in, panel_begin, panel_end, out, out_stride, workspace);
}

void reference_i8(const Matrix& m, const Input& in, uint32_t panel_begin, uint32_t panel_end, float* out,
                  size_t out_stride, std::byte* workspace) {
  float* codes = reinterpret_cast<float*>(workspace);
  uint8_t* stored = reinterpret_cast<uint8_t*>(codes + panel_elements(m));
  for (uint32_t panel = panel_begin; panel < panel_end; ++panel) {
    expand_panel(m, panel, codes, stored);
    for (uint32_t t = 0; t < in.tokens; ++t) {
      const int8_t* row = in.i8 + t * in.stride;
      for (uint32_t r = 0; r < kPanelRows && panel * kPanelRows + r < m.rows; ++r) {
        int32_t sum = 0;
        for (uint32_t k = 0; k < m.cols; ++k) {
          sum += static_cast<int32_t>(codes[(size_t{k / 4} * kPanelRows + r) * 4 + k % 4]) * row[k];
        }
        const uint32_t n = panel * kPanelRows + r;
        out[t * out_stride + n] = static_cast<float>(sum) * m.row_scales[n] * in.scales[t];
      }
    }
  }
}

void reference_i4(const Matrix& m, const Input& in, uint32_t panel_begin, uint32_t panel_end, float* out,
                  size_t out_stride, std::byte* workspace) {
  float* codes = reinterpret_cast<float*>(workspace);
  uint8_t* stored = reinterpret_cast<uint8_t*>(codes + panel_elements(m));
  const uint32_t group = group_size(m.format), groups = group_count(m);
  for (uint32_t panel = panel_begin; panel < panel_end; ++panel) {
    expand_panel(m, panel, codes, stored);
    for (uint32_t t = 0; t < in.tokens; ++t) {
      const int8_t* row = in.i8 + t * in.stride;
      for (uint32_t r = 0; r < kPanelRows && panel * kPanelRows + r < m.rows; ++r) {
        float f = 0.0f;
        for (uint32_t g = 0; g < groups; ++g) {
          int32_t sum = 0, stored_sum = 0;
          for (uint32_t k = g * group; k < (g + 1) * group && k < m.cols; ++k) {
            const size_t e = (size_t{k / 4} * kPanelRows + r) * 4 + k % 4;
            sum += static_cast<int32_t>(codes[e]) * row[k];
            stored_sum += stored[e] * row[k];
          }
          const size_t scale = (size_t{panel / 2} * groups + g) * 2 * kPanelRows + panel % 2 * kPanelRows + r;
          f = std::fma(f16_to_f32(m.group_scales[scale]), static_cast<float>(sum), f);
          if (m.has_min) f = std::fma(f16_to_f32(m.group_mins[scale]), static_cast<float>(stored_sum), f);
        }
        out[t * out_stride + panel * kPanelRows + r] = f * in.scales[t];
      }
    }
  }
}

}  // namespace filigree::linear
