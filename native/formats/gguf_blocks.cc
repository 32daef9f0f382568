#include "formats/gguf_blocks.h"

#include <cstring>

#include "base/half.h"

namespace filigree {
namespace {

float half_at(const uint8_t* p) { return f16_to_f32(static_cast<uint16_t>(p[0] | (p[1] << 8))); }

uint32_t u32_at(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

void q8_0(const uint8_t* b, float* out) {
  const float d = half_at(b);
  for (int j = 0; j < 32; j++) out[j] = d * static_cast<float>(static_cast<int8_t>(b[2 + j]));
}

void q4_0(const uint8_t* b, float* out) {
  const float d = half_at(b);
  for (int j = 0; j < 16; j++) {
    out[j] = d * static_cast<float>((b[2 + j] & 15) - 8);
    out[j + 16] = d * static_cast<float>((b[2 + j] >> 4) - 8);
  }
}

void q4_0_codes(const uint8_t* b, int8_t* codes, float* scales, float*) {
  scales[0] = half_at(b);
  for (int j = 0; j < 16; j++) {
    codes[j] = static_cast<int8_t>((b[2 + j] & 15) - 8);
    codes[j + 16] = static_cast<int8_t>((b[2 + j] >> 4) - 8);
  }
}

void q4_1(const uint8_t* b, float* out) {
  const float d = half_at(b), m = half_at(b + 2);
  for (int j = 0; j < 16; j++) {
    out[j] = d * static_cast<float>(b[4 + j] & 15) + m;
    out[j + 16] = d * static_cast<float>(b[4 + j] >> 4) + m;
  }
}

void q4_1_codes(const uint8_t* b, int8_t* codes, float* scales, float* mins) {
  scales[0] = half_at(b);
  mins[0] = half_at(b + 2);
  for (int j = 0; j < 16; j++) {
    codes[j] = static_cast<int8_t>(b[4 + j] & 15);
    codes[j + 16] = static_cast<int8_t>(b[4 + j] >> 4);
  }
}

int q5_code(const uint8_t* nibbles, uint32_t high, int j) {
  const int low = j < 16 ? nibbles[j] & 15 : nibbles[j - 16] >> 4;
  return low | static_cast<int>(((high >> j) & 1u) << 4);
}

void q5_0(const uint8_t* b, float* out) {
  const float d = half_at(b);
  const uint32_t high = u32_at(b + 2);
  for (int j = 0; j < 32; j++) out[j] = d * static_cast<float>(q5_code(b + 6, high, j) - 16);
}

void q5_1(const uint8_t* b, float* out) {
  const float d = half_at(b), m = half_at(b + 2);
  const uint32_t high = u32_at(b + 4);
  for (int j = 0; j < 32; j++) out[j] = d * static_cast<float>(q5_code(b + 8, high, j)) + m;
}

// Scale and minimum of group j (0..7) out of the 12 bytes that hold 8 x 2 x 6 bits.
struct ScaleMin {
  int scale, min;
};
ScaleMin k_scale_min(const uint8_t* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4)};
}

void q4_k(const uint8_t* b, float* out) {
  const float d = half_at(b), dmin = half_at(b + 2);
  const uint8_t* q = b + 16;
  for (int g = 0; g < 8; g++) {
    const auto [sc, mn] = k_scale_min(b + 4, g);
    const float scale = d * static_cast<float>(sc), min = dmin * static_cast<float>(mn);
    const uint8_t* nibbles = q + (g / 2) * 32;
    const int shift = (g & 1) * 4;
    for (int l = 0; l < 32; l++)
      out[g * 32 + l] = scale * static_cast<float>((nibbles[l] >> shift) & 15) - min;
  }
}

void q4_k_codes(const uint8_t* b, int8_t* codes, float* scales, float* mins) {
  const float d = half_at(b), dmin = half_at(b + 2);
  const uint8_t* q = b + 16;
  for (int g = 0; g < 8; g++) {
    const auto [sc, mn] = k_scale_min(b + 4, g);
    scales[g] = d * static_cast<float>(sc);
    mins[g] = -(dmin * static_cast<float>(mn));
    const uint8_t* nibbles = q + (g / 2) * 32;
    const int shift = (g & 1) * 4;
    for (int l = 0; l < 32; l++) codes[g * 32 + l] = static_cast<int8_t>((nibbles[l] >> shift) & 15);
  }
}

void q5_k(const uint8_t* b, float* out) {
  const float d = half_at(b), dmin = half_at(b + 2);
  const uint8_t* high = b + 16;
  const uint8_t* q = b + 48;
  for (int g = 0; g < 8; g++) {
    const auto [sc, mn] = k_scale_min(b + 4, g);
    const float scale = d * static_cast<float>(sc), min = dmin * static_cast<float>(mn);
    const uint8_t* nibbles = q + (g / 2) * 32;
    const int shift = (g & 1) * 4;
    for (int l = 0; l < 32; l++) {
      const int code = ((nibbles[l] >> shift) & 15) | (((high[l] >> g) & 1) << 4);
      out[g * 32 + l] = scale * static_cast<float>(code) - min;
    }
  }
}

void q6_k(const uint8_t* b, float* out) {
  const float d = half_at(b + 208);
  for (int half = 0; half < 2; half++) {
    const uint8_t* low = b + half * 64;
    const uint8_t* high = b + 128 + half * 32;
    const uint8_t* scales = b + 192 + half * 8;
    for (int quarter = 0; quarter < 4; quarter++) {
      const uint8_t* nibbles = low + (quarter & 1) * 32;
      const int shift = (quarter >> 1) * 4;
      for (int l = 0; l < 32; l++) {
        const int code = (((nibbles[l] >> shift) & 15) | (((high[l] >> (2 * quarter)) & 3) << 4)) - 32;
        const auto sc = static_cast<int8_t>(scales[quarter * 2 + l / 16]);
        out[half * 128 + quarter * 32 + l] = d * static_cast<float>(sc) * static_cast<float>(code);
      }
    }
  }
}

constexpr GgufBlock kBlocks[] = {
    {"q8_0", 32, 34, q8_0, nullptr, false},   {"q4_0", 32, 18, q4_0, q4_0_codes, false},
    {"q4_1", 32, 20, q4_1, q4_1_codes, true}, {"q5_0", 32, 22, q5_0, nullptr, false},
    {"q5_1", 32, 24, q5_1, nullptr, false},   {"q4_k", 256, 144, q4_k, q4_k_codes, true},
    {"q5_k", 256, 176, q5_k, nullptr, false}, {"q6_k", 256, 210, q6_k, nullptr, false},
};

}  // namespace

const GgufBlock* find_gguf_block(std::string_view name) {
  for (const GgufBlock& block : kBlocks) {
    if (block.name == name) return &block;
  }
  return nullptr;
}

}  // namespace filigree
