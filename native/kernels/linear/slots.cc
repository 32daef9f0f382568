#include "kernels/linear/slots.h"

#include <algorithm>
#include <cstring>

namespace filigree::linear {
namespace {

uint32_t pairs_of(const std::byte* stream, int octet) {
  uint32_t pairs;
  std::memcpy(&pairs, stream + 4 * octet, sizeof(pairs));
  return pairs;
}

}  // namespace

void expand_slots8(const Matrix& m, uint32_t panel, float* codes, uint8_t* stored) {
  const size_t elements = size_t{padded_cols(m)} * kPanelRows;
  std::fill_n(codes, elements, 0.0f);
  std::memset(stored, 0, elements);
  const std::byte* stream = m.values + m.offsets[panel];
  const std::byte* pair = stream + kSlotHeaderBytes;
  for (int octet = 0; octet < 2; ++octet) {
    uint32_t window = 0;
    for (uint32_t n = pairs_of(stream, octet); n > 0; --n, pair += kSlotPairBytes) {
      for (uint32_t step = 0; step < 2; ++step) {
        window += static_cast<uint32_t>(pair[kSlotMoves + step]);
        for (uint32_t i = 0; i < 32; ++i) {
          const int8_t code = static_cast<int8_t>(pair[32 * step + i]);
          if (code == 0) continue;
          const uint32_t row = 8 * static_cast<uint32_t>(octet) + i / 4;
          const uint32_t k = window + (static_cast<uint32_t>(pair[kSlotPlaces + i]) >> (4 * step) & 15);
          if (k >= padded_cols(m)) continue;
          const size_t e = (size_t{k / 4} * kPanelRows + row) * 4 + k % 4;
          codes[e] = code;
          stored[e] = 1;
        }
      }
    }
  }
}

bool is_slots8_panel(const std::byte* stream, uint64_t bytes, uint32_t cols) {
  if (bytes < kSlotHeaderBytes) return false;
  const uint64_t pairs = uint64_t{pairs_of(stream, 0)} + pairs_of(stream, 1);
  if (bytes != kSlotHeaderBytes + pairs * kSlotPairBytes) return false;
  const std::byte* pair = stream + kSlotHeaderBytes;
  for (int octet = 0; octet < 2; ++octet) {
    uint64_t window = 0;
    for (uint32_t n = pairs_of(stream, octet); n > 0; --n, pair += kSlotPairBytes) {
      window += static_cast<uint64_t>(pair[kSlotMoves]) + static_cast<uint64_t>(pair[kSlotMoves + 1]);
      if (window > last_window(cols)) return false;
    }
  }
  return true;
}

}  // namespace filigree::linear
