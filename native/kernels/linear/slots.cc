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

void put(float* codes, uint8_t* stored, uint32_t row, uint32_t k, int code) {
  const size_t e = (size_t{k / 4} * kPanelRows + row) * 4 + k % 4;
  codes[e] = static_cast<float>(code);
  stored[e] = 1;
}

void expand_i8(const Matrix& m, uint32_t panel, float* codes, uint8_t* stored) {
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
          put(codes, stored, row, k, code);
        }
      }
    }
  }
}

void expand_i4(const Matrix& m, uint32_t panel, float* codes, uint8_t* stored) {
  const std::byte* at = m.values + m.offsets[panel / 2];
  const uint32_t groups = group_count(m), group = group_size(m.format);
  for (uint32_t octet = 0; octet < 2 * (panel % 2) + 2; ++octet) {
    for (uint32_t g = 0; g < groups; ++g) {
      uint32_t window = g * group;
      for (uint32_t steps = static_cast<uint32_t>(*at++); steps > 0; --steps, at += kNibbleStepBytes) {
        window += static_cast<uint32_t>(at[kNibbleMove]);
        if (octet / 2 != panel % 2) continue;
        for (uint32_t i = 0; i < 32; ++i) {
          const int code = static_cast<int8_t>(at[i]) >> 4;
          if (code != 0)
            put(codes, stored, 8 * (octet % 2) + i / 4, window + (static_cast<uint32_t>(at[i]) & 15), code);
        }
      }
    }
  }
}

bool is_i8_panel(const std::byte* stream, uint64_t bytes, uint32_t cols) {
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

bool is_i4_pair(const MatrixSpec& spec, const std::byte* stream, uint64_t bytes) {
  const std::byte* at = stream;
  const std::byte* end = stream + bytes;
  for (uint64_t counts = uint64_t{4} * group_count(spec); counts > 0; --counts) {
    if (at == end) return false;
    const uint32_t steps = static_cast<uint32_t>(*at++);
    if (static_cast<uint64_t>(end - at) < steps * kNibbleStepBytes) return false;
    uint32_t window = 0;
    for (uint32_t i = 0; i < steps; ++i, at += kNibbleStepBytes) {
      window += static_cast<uint32_t>(at[kNibbleMove]);
      if (window > group_size(spec.format) - kWindow) return false;
    }
  }
  return at == end;
}

}  // namespace

void expand_slots8(const Matrix& m, uint32_t panel, float* codes, uint8_t* stored) {
  const size_t elements = size_t{padded_cols(m)} * kPanelRows;
  std::fill_n(codes, elements, 0.0f);
  std::memset(stored, 0, elements);
  is_i4(m.format) ? expand_i4(m, panel, codes, stored) : expand_i8(m, panel, codes, stored);
}

bool is_slots8_unit(const MatrixSpec& spec, const std::byte* stream, uint64_t bytes) {
  return is_i4(spec.format) ? is_i4_pair(spec, stream, bytes) : is_i8_panel(stream, bytes, spec.cols);
}

}  // namespace filigree::linear
