#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "grammar/nfa.h"

namespace filigree::grammar {

// Code points from low to high, both included; ascending, apart from each other, without surrogates.
using CharacterRanges = std::vector<std::pair<uint32_t, uint32_t>>;

// Adds one character of `ranges`, as UTF-8, between two nodes. Equal tails are shared: a class of a whole alphabet stays
// small. `work` counts the ranges looked at.
void add_character(Nfa& nfa, uint32_t from, uint32_t to, const CharacterRanges& ranges, size_t& work);

}  // namespace filigree::grammar
