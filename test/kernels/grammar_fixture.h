#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "grammar/grammar.h"
#include "grammar/program.h"
#include "harness.h"

namespace filigree::test {

// An expression of a program (grammar/program.h) as a tree: encoded for the compiler, and read by an oracle that shares
// nothing with it.
struct Expression {
  struct Item {
    int32_t min, max;
  };
  grammar::Op op = grammar::Op::empty;
  std::string text;                                 // bytes
  std::vector<std::pair<int32_t, int32_t>> ranges;  // chars
  int32_t min = 0, max = 0;                         // repeat
  int32_t rule = 0;                                 // call
  int32_t flags = 0;                                // separated: children[0] is the separator
  std::vector<Item> items;                          // separated: of children[1 ..)
  std::vector<Expression> children;
};

using Rules = std::vector<Expression>;

Expression bytes_of(std::string text);
Expression sequence_of(std::vector<Expression> parts);
Expression choice_of(std::vector<Expression> parts);
Expression repeat_of(Expression part, int32_t min, int32_t max);
Expression call_of(int32_t rule);
Expression characters_of(std::vector<std::pair<int32_t, int32_t>> ranges);
Expression both_of(Expression a, Expression b);
Expression without_of(Expression a, Expression b);

// Rule 0 is the start.
std::vector<int32_t> encode(const Rules& rules);

// Where a reading of `text` by the expression may end that begins at `from`. Tries everything; for rules without recursion.
std::set<size_t> ends_of(const Rules& rules, const Expression& e, std::string_view text, size_t from);
inline bool derives(const Rules& rules, std::string_view text) {
  return ends_of(rules, rules[0], text, 0).contains(text.size());
}

// A random expression over 'a', 'b', '"' and 'é', of bounded size; `callable` rules may be called, from `first` on.
Expression random_expression(Random& random, int depth, int32_t first, int32_t callable);

// Tokens, the last of which is the end of the text.
std::shared_ptr<const grammar::Vocabulary> vocabulary_of(const std::vector<std::string>& tokens,
                                                         bool strips_leading_space = false);

// Every text of at most `longest` letters of the alphabet.
std::vector<std::string> all_texts(const std::vector<std::string>& alphabet, size_t longest);

}  // namespace filigree::test
