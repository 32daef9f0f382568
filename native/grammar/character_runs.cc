#include "grammar/character_runs.h"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace filigree::grammar {
namespace {

// The one state that all steps met so far lead to.
class Meeting {
 public:
  bool even() const { return even_; }
  void meet(int32_t state) { even_ = even_ && state == state_.value_or(state), state_ = state; }
  std::optional<int32_t> result() const { return even_ ? state_ : std::nullopt; }

 private:
  std::optional<int32_t> state_;
  bool even_ = true;
};

// Steps over bytes low .. high, then over `rest` continuation bytes; the first of those from `second_low` to `second_high`.
void follow(Automaton& automaton, Meeting& meeting, uint32_t state, unsigned low, unsigned high, int rest,
            unsigned second_low = 0x80, unsigned second_high = 0xbf) {
  std::optional<int32_t> previous;
  for (unsigned byte = low; byte <= high && meeting.even(); ++byte) {
    const int32_t next = automaton.step(state, static_cast<uint8_t>(byte));
    if (next == previous) continue;
    previous = next;
    if (rest == 0 || next == Automaton::kDead) {
      meeting.meet(next);
    } else {
      follow(automaton, meeting, static_cast<uint32_t>(next), second_low, second_high, rest - 1);
    }
  }
}

}  // namespace

std::optional<int32_t> CharacterRuns::after_letter(uint32_t state) {
  Meeting meeting;
  follow(automaton_, meeting, state, 'a', 'z', 0);
  follow(automaton_, meeting, state, 'A', 'Z', 0);
  return meeting.result();
}

std::optional<int32_t> CharacterRuns::after_plain(uint32_t state) {
  Meeting meeting;
  for (unsigned byte = 0x20; byte < 0x80; ++byte) {
    const auto ascii = static_cast<uint8_t>(byte);
    if (is_plain_ascii(ascii)) meeting.meet(automaton_.step(state, ascii));
  }
  const auto lead = [&](unsigned low, unsigned high, int rest, unsigned second_low, unsigned second_high) {
    follow(automaton_, meeting, state, low, high, rest, second_low, second_high);
  };
  lead(0xc2, 0xdf, 1, 0x80, 0xbf);
  lead(0xe0, 0xe0, 2, 0xa0, 0xbf);
  lead(0xe1, 0xec, 2, 0x80, 0xbf);
  lead(0xed, 0xed, 2, 0x80, 0x9f);
  lead(0xee, 0xef, 2, 0x80, 0xbf);
  lead(0xf0, 0xf0, 3, 0x90, 0xbf);
  lead(0xf1, 0xf3, 3, 0x80, 0xbf);
  lead(0xf4, 0xf4, 3, 0x80, 0x8f);
  return meeting.result();
}

std::optional<int32_t> CharacterRuns::after(uint32_t state) {
  return tokens_.kind() == TokenClass::Kind::letters ? after_letter(state) : after_plain(state);
}

int32_t CharacterRuns::of(uint32_t state, bool root) {
  const auto key = [&](uint32_t s) { return uint64_t{s} << 1 | (root ? 1 : 0); };
  // A rule that may end or calls another has more threads than one.
  const auto usable = [&](uint32_t s) {
    return automaton_.calls(s).empty() && (root || !automaton_.accepts(s));
  };
  const size_t longest = tokens_.longest(), most = 4 * longest + 64;
  std::vector<uint32_t> path;
  int32_t tail = kUneven;
  for (uint32_t here = state;;) {
    if (const auto known = known_.find(key(here)); known != known_.end()) {
      tail = known->second;
      break;
    }
    if (std::find(path.begin(), path.end(), here) != path.end()) {
      tail = kEndless;
      break;
    }
    if (path.size() == most) {
      // Farther than any token from all but the last of the path, which stay unknown.
      path.resize(most - longest);
      tail = kEndless;
      break;
    }
    const std::optional<int32_t> next = after(here);
    if (!next || *next == Automaton::kDead || !usable(static_cast<uint32_t>(*next))) {
      tail = next == Automaton::kDead ? 0 : kUneven;
      known_[key(here)] = tail;
      break;
    }
    path.push_back(here);
    here = static_cast<uint32_t>(*next);
  }
  for (size_t i = path.size(); i-- > 0;) {
    if (tail != kUneven) tail = std::min(tail + 1, kEndless);
    known_[key(path[i])] = tail;
  }
  return known_[key(state)];
}

}  // namespace filigree::grammar
