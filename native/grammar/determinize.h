#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "grammar/nfa.h"

namespace filigree::grammar {

// A complete deterministic automaton of a regular part: for intersections and differences, which no nondeterministic one has.
struct Dfa {
  std::vector<std::array<int32_t, 256>> next;  // -1 = no way on
  std::vector<bool> accept;                    // state 0 is the start
};

// Throws invalid_argument beyond Limits::product_states. The part must not call rules.
Dfa determinize(const Nfa& nfa, uint32_t from, uint32_t to);
// Texts of both, or of a without b.
Dfa product(const Dfa& a, const Dfa& b, bool minus);
// Adds the automaton between two nodes.
void emit(const Dfa& dfa, Nfa& nfa, uint32_t from, uint32_t to);

}  // namespace filigree::grammar
