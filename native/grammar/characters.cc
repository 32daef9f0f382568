#include "grammar/characters.h"

#include <algorithm>
#include <map>

namespace filigree::grammar {
namespace {

class CharacterBuilder {
 public:
  CharacterBuilder(Nfa& nfa, uint32_t to, size_t& work) : nfa_(nfa), to_(to), work_(work) {}

  void build(uint32_t from, const CharacterRanges& ranges) {
    struct Form {
      uint32_t first, last;  // code points written in this many bytes
      int continuation;
      uint8_t lead;
    };
    for (const Form& form : {Form{0, 0x7f, 0, 0x00}, Form{0x80, 0x7ff, 1, 0xc0}, Form{0x800, 0xffff, 2, 0xe0},
                             Form{0x10000, 0x10ffff, 3, 0xf0}}) {
      CharacterRanges part;
      for (const auto& [low, high] : ranges) {
        const uint32_t a = std::max(low, form.first), b = std::min(high, form.last);
        if (a <= b) part.emplace_back(a, b);
      }
      if (!part.empty()) lead(from, part, form.continuation, form.lead);
    }
  }

 private:
  // The bytes of one position: low bytes of `part`, which counts from the start of its block.
  void lead(uint32_t from, const CharacterRanges& part, int continuation, uint8_t base) {
    const uint32_t block = uint32_t{1} << (6 * continuation);
    uint32_t run_low = 0, run_high = 0, run_to = kNone;
    const auto flush = [&] {
      if (run_to != kNone) {
        nfa_.bytes(from, static_cast<uint8_t>(base + run_low), static_cast<uint8_t>(base + run_high), run_to);
      }
    };
    size_t first = 0;
    for (uint32_t byte = part.front().first / block; byte <= part.back().second / block; ++byte) {
      const uint32_t begin = byte * block, end = begin + block - 1;
      while (first < part.size() && part[first].second < begin) ++first;
      if (first < part.size() && part[first].first > end) {
        byte = part[first].first / block - 1;  // nothing before the next range
        continue;
      }
      CharacterRanges inside;
      for (size_t i = first; i < part.size() && part[i].first <= end; ++i) {
        ++work_;
        inside.emplace_back(std::max(part[i].first, begin) - begin, std::min(part[i].second, end) - begin);
      }
      if (inside.empty()) continue;
      const uint32_t to = continuation == 0 ? to_ : tail(inside, continuation - 1);
      if (to == run_to && byte == run_high + 1) {
        run_high = byte;
        continue;
      }
      flush();
      run_low = run_high = byte;
      run_to = to;
    }
    flush();
  }

  uint32_t tail(const CharacterRanges& ranges, int continuation) {
    const auto [entry, fresh] = tails_.try_emplace({continuation, ranges}, 0);
    if (fresh) {
      const uint32_t node = nfa_.add_node();
      entry->second = node;
      lead(node, ranges, continuation, 0x80);
      return node;
    }
    return entry->second;
  }

  static constexpr uint32_t kNone = ~uint32_t{0};
  Nfa& nfa_;
  uint32_t to_;
  size_t& work_;
  std::map<std::pair<int, CharacterRanges>, uint32_t> tails_;
};

}  // namespace

void add_character(Nfa& nfa, uint32_t from, uint32_t to, const CharacterRanges& ranges, size_t& work) {
  CharacterBuilder(nfa, to, work).build(from, ranges);
}

}  // namespace filigree::grammar
