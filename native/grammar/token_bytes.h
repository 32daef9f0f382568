#pragma once

#include <array>
#include <cstdint>

namespace filigree::grammar {

// Control tokens stand in the automaton's alphabet as four bytes that begin with one which UTF-8 never has: a constraint may
// ask for such a token, and no text can be mistaken for it.
inline constexpr uint8_t kControlByte = 0xff;

inline std::array<uint8_t, 4> control_token_bytes(uint32_t id) {
  return {kControlByte, static_cast<uint8_t>(id >> 16), static_cast<uint8_t>(id >> 8),
          static_cast<uint8_t>(id)};
}

}  // namespace filigree::grammar
