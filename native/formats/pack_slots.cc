#include "formats/pack_slots.h"

#include <algorithm>
#include <cstring>

#include "kernels/linear/slots.h"

namespace filigree {
namespace {

using linear::kNibbleMove;
using linear::kNibbleStepBytes;
using linear::kSlotHeaderBytes;
using linear::kSlotMoves;
using linear::kSlotPairBytes;
using linear::kSlotPlaces;
using linear::kWindow;

// Writes steps two by two, or only counts them.
class StepWriter {
 public:
  explicit StepWriter(std::byte* out) : out_(out) {}

  void begin(uint32_t move) {
    if (out_ == nullptr) return;
    if (steps_ % 2 == 0) std::memset(pair(), 0, kSlotPairBytes);
    pair()[kSlotMoves + steps_ % 2] = static_cast<std::byte>(move);
  }
  void put(uint32_t row, uint32_t slot, int8_t code, uint32_t place) {
    if (out_ == nullptr) return;
    const uint32_t i = 4 * row + slot;
    pair()[32 * (steps_ % 2) + i] = static_cast<std::byte>(code);
    pair()[kSlotPlaces + i] |= static_cast<std::byte>(place << (4 * (steps_ % 2)));
  }
  void end() { ++steps_; }
  uint32_t pairs() const { return (steps_ + 1) / 2; }

 private:
  std::byte* pair() { return out_ + steps_ / 2 * kSlotPairBytes; }

  std::byte* out_;
  uint32_t steps_ = 0;
};

// First column from k on whose code is not zero, or cols.
uint32_t next_nonzero(const int8_t* row, uint32_t k, uint32_t cols) {
  while (k < cols && row[k] == 0) ++k;
  return k;
}

// Up to four nonzeros of a row that a step takes; an empty slot is a code of 0.
struct Taken {
  int8_t code[4] = {};
  uint32_t place[4] = {};
};

// Orders them so that both pairs, slots 0 and 1 and slots 2 and 3, are safe; false if no order is.
bool order_safely(Taken& t) {
  using linear::is_safe_pair;
  for (uint32_t partner = 1; partner < 4; ++partner) {
    const uint32_t a = partner == 1 ? 2 : 1, b = partner == 3 ? 2 : 3;
    if (!is_safe_pair(t.code[0], t.code[partner]) || !is_safe_pair(t.code[a], t.code[b])) continue;
    std::swap(t.code[1], t.code[partner]);
    std::swap(t.place[1], t.place[partner]);
    return true;
  }
  return false;
}

// Greedy: the window starts at the first column that any row still waits for, as far as padding allows. A row whose next four have no
// safe order takes the first three or two of them; two are always safe, one in each pair.
uint32_t pack_octet(const int8_t* codes, uint32_t rows, uint32_t cols, std::byte* out) {
  StepWriter writer(out);
  uint32_t next[8], window = 0;
  for (uint32_t r = 0; r < rows; ++r) next[r] = next_nonzero(codes + size_t{r} * cols, 0, cols);
  for (;;) {
    const uint32_t first = rows == 0 ? cols : *std::min_element(next, next + rows);
    if (first == cols) return writer.pairs();
    const uint32_t start = std::min(first, linear::last_window(cols));
    for (; start - window > 255; window += 255) {
      writer.begin(255);
      writer.end();
    }
    writer.begin(start - window);
    window = start;
    for (uint32_t r = 0; r < rows; ++r) {
      const int8_t* row = codes + size_t{r} * cols;
      const uint32_t window_end = std::min(cols, window + kWindow);
      Taken taken;
      for (uint32_t n = 0, k = next[r]; n < 4 && k < window_end; ++n, k = next_nonzero(row, k + 1, cols)) {
        taken.code[n] = row[k], taken.place[n] = k - window;
      }
      uint32_t last = 3;
      while (!order_safely(taken)) taken.code[last--] = 0;
      for (uint32_t slot = 0; slot < 4; ++slot) {
        if (taken.code[slot] == 0) continue;
        writer.put(r, slot, taken.code[slot], taken.place[slot]);
        next[r] = std::max(next[r], window + taken.place[slot] + 1);
      }
      next[r] = next_nonzero(row, next[r], cols);
    }
    writer.end();
  }
}

// One group of columns [begin, end) of an octet; returns the bytes of its count and steps.
size_t pack_nibble_group(const int8_t* nibbles, uint32_t rows, uint32_t cols, uint32_t begin, uint32_t end,
                         uint32_t last_start, std::byte* out) {
  const auto next_stored = [&](uint32_t r, uint32_t k) {
    while (k < end && nibbles[size_t{r} * cols + k] == 8) ++k;
    return k;
  };
  uint32_t next[8], window = begin, steps = 0;
  for (uint32_t r = 0; r < rows; ++r) next[r] = next_stored(r, begin);
  for (;;) {
    const uint32_t first = rows == 0 ? end : *std::min_element(next, next + rows);
    if (first >= end) break;
    const uint32_t start = std::min(first, last_start);
    std::byte* step = out == nullptr ? nullptr : out + 1 + steps * kNibbleStepBytes;
    if (step != nullptr) {
      std::memset(step, 0, kNibbleMove);
      step[kNibbleMove] = static_cast<std::byte>(start - window);
    }
    window = start;
    for (uint32_t r = 0; r < rows; ++r) {
      for (uint32_t slot = 0; slot < 4 && next[r] < std::min(end, window + kWindow); ++slot) {
        const uint32_t code = static_cast<uint32_t>(nibbles[size_t{r} * cols + next[r]]) ^ 8u;
        if (step != nullptr) step[4 * r + slot] = static_cast<std::byte>(code << 4 | (next[r] - window));
        next[r] = next_stored(r, next[r] + 1);
      }
    }
    ++steps;
  }
  if (out != nullptr) out[0] = static_cast<std::byte>(steps);
  return 1 + steps * kNibbleStepBytes;
}

}  // namespace

size_t pack_slots8_i4(const int8_t* nibbles, uint32_t rows, uint32_t cols, uint32_t group, std::byte* out) {
  size_t bytes = 0;
  for (uint32_t octet = 0; octet < 4; ++octet) {
    const uint32_t n = std::min(8u, rows - std::min(rows, 8 * octet));
    const int8_t* first = nibbles + size_t{8} * octet * cols * (n > 0);
    for (uint32_t begin = 0; begin < cols; begin += group) {
      bytes += pack_nibble_group(first, n, cols, begin, std::min(cols, begin + group),
                                 begin + group - kWindow, out == nullptr ? nullptr : out + bytes);
    }
  }
  return bytes;
}

size_t pack_slots8(const int8_t* codes, uint32_t rows, uint32_t cols, std::byte* out) {
  uint32_t pairs[2];
  size_t bytes = kSlotHeaderBytes;
  for (uint32_t octet = 0; octet < 2; ++octet) {
    const uint32_t n = std::min(8u, rows - std::min(rows, 8 * octet));
    pairs[octet] = pack_octet(codes + size_t{8} * octet * cols * (n > 0), n, cols,
                              out == nullptr ? nullptr : out + bytes);
    bytes += pairs[octet] * kSlotPairBytes;
  }
  if (out != nullptr) std::memcpy(out, pairs, sizeof(pairs));
  return bytes;
}

}  // namespace filigree
