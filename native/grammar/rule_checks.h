#pragma once

#include "grammar/nfa.h"

namespace filigree::grammar {

// Keeps of a grammar only what leads to the end of its rules, and calls of rules that derive some text. Throws
// invalid_argument where the start rule derives none.
void trim(RuleSet& set);

// Throws invalid_argument that names a rule which calls itself before it has read a byte: it would be entered without end.
void refuse_left_recursion(const RuleSet& set);

}  // namespace filigree::grammar
