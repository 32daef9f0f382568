#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>

#include "grammar/automaton.h"
#include "grammar/vocabulary.h"

namespace filigree::grammar {

// How many characters of a class's kind a state takes, if after each of them it stands in one state again whichever they were: then
// every token of the class of up to so many is allowed, and none that is longer.
class CharacterRuns {
 public:
  static constexpr int32_t kEndless = 1 << 20, kUneven = -1;

  CharacterRuns(Automaton& automaton, const TokenClass& tokens) : automaton_(automaton), tokens_(tokens) {}

  const TokenClass& tokens() const { return tokens_; }
  // kUneven where it is not so simple.
  int32_t of(uint32_t state, bool root);

 private:
  // The state after any character of the kind, or kDead; nothing where they do not agree.
  std::optional<int32_t> after(uint32_t state);
  std::optional<int32_t> after_letter(uint32_t state);
  std::optional<int32_t> after_plain(uint32_t state);

  Automaton& automaton_;
  const TokenClass& tokens_;
  std::unordered_map<uint64_t, int32_t> known_;  // by state, and whether the rule's end is the text's
};

}  // namespace filigree::grammar
