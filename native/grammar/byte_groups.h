#pragma once

#include <array>
#include <cstdint>

namespace filigree::grammar {

// The bytes in at most 64 groups, so that a set of them is one word: what a subtree of a trie reads, and what a state takes
// alike. Bytes share a group where patterns seldom tell them apart: a finer division is never wrong, only larger.
//
// 0 .. 31 the marks of ASCII, then digits, a-f, g-z, A-F, G-Z, space, white space, other controls, and UTF-8's lead and
// continuation bytes by what may follow them.
constexpr std::array<uint8_t, 256> make_byte_groups() {
  std::array<uint8_t, 256> group{};
  uint8_t mark = 0;
  for (unsigned b = 0; b < 256; ++b) {
    const bool digit = b >= '0' && b <= '9', lower = b >= 'a' && b <= 'z', upper = b >= 'A' && b <= 'Z';
    uint8_t g = 0;
    if (digit) {
      g = 32;
    } else if (lower) {
      g = b <= 'f' ? 33 : 34;
    } else if (upper) {
      g = b <= 'F' ? 35 : 36;
    } else if (b == ' ') {
      g = 37;
    } else if (b == '\t' || b == '\n' || b == '\r') {
      g = 38;
    } else if (b < ' ' || b == 0x7f) {
      g = 39;
    } else if (b < 0x80) {
      g = mark++;
    } else if (b < 0xc0) {
      g = b < 0x90 ? 40 : b < 0xa0 ? 41 : 42;
    } else if (b < 0xe0) {
      g = b < 0xc2 ? 43 : 44;
    } else if (b < 0xf0) {
      g = b == 0xe0 ? 45 : b == 0xed ? 46 : 47;
    } else {
      g = b == 0xf0 ? 48 : b < 0xf4 ? 49 : b == 0xf4 ? 50 : 51;
    }
    group[b] = g;
  }
  return group;
}

inline constexpr std::array<uint8_t, 256> kByteGroup = make_byte_groups();
inline constexpr size_t kByteGroups = 52;

}  // namespace filigree::grammar
