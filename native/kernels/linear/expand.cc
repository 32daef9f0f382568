#include "kernels/linear/expand.h"

#include <bit>
#include <cstring>

#include "base/half.h"
#include "kernels/linear/slots.h"

namespace filigree::linear {
namespace {

// The stored values of one panel, in order.
class ValueReader {
 public:
  ValueReader(const Matrix& m, uint32_t panel)
      : format_(m.format), high_nibble_(panel & 1), bias_(m.has_min ? 0 : 8) {
    const uint32_t unit = panel / panels_per_unit(m.format);
    if (m.layout == Layout::dense) {
      next_ = m.values +
              uint64_t{unit} * tile_count(m) * kPanelRows * tile_cols(m.format) * value_bytes(m.format);
    } else {
      next_ = m.values + m.offsets[unit];
    }
  }

  float take() {
    const std::byte* at = next_;
    next_ += value_bytes(format_);
    switch (format_) {
      case Format::f32: {
        float v;
        std::memcpy(&v, at, 4);
        return v;
      }
      case Format::bf16: {
        uint16_t v;
        std::memcpy(&v, at, 2);
        return bf16_to_f32(v);
      }
      case Format::i8:
        return static_cast<float>(static_cast<int8_t>(*at));
      default: {
        const int byte = static_cast<int>(*at);
        return static_cast<float>((high_nibble_ ? byte >> 4 : byte & 15) - bias_);
      }
    }
  }

 private:
  Format format_;
  bool high_nibble_;
  int bias_;
  const std::byte* next_;
};

}  // namespace

void expand_panel(const Matrix& m, uint32_t panel, float* codes, uint8_t* stored) {
  if (m.layout == Layout::slots8) return expand_slots8(m, panel, codes, stored);
  const uint32_t tiles = tile_count(m), elements = kPanelRows * tile_cols(m.format);
  ValueReader values(m, panel);
  for (uint32_t t = 0; t < tiles; ++t) {
    uint64_t mask = ~uint64_t{0};
    if (has_masks(m.layout)) {
      mask = 0;
      std::memcpy(&mask, m.masks + (uint64_t{mask_row(m, panel)} * tiles + t) * mask_bytes(m.format),
                  mask_bytes(m.format));
    }
    for (uint32_t e = 0; e < elements; ++e) {
      const bool here = mask >> e & 1;
      *codes++ = here ? values.take() : 0.0f;
      *stored++ = here;
    }
  }
}

}  // namespace filigree::linear
