// The engine of constrained output against brute force: which texts a grammar has, and which tokens may follow.
#include <array>
#include <string>
#include <vector>

#include "base/status.h"
#include "grammar_fixture.h"

namespace filigree::test {
namespace {

using grammar::Grammar;
using grammar::Matcher;
using grammar::TokenMask;
using grammar::Vocabulary;

bool has(const TokenMask& mask, size_t token) { return (mask[token / 64] >> (token % 64) & 1) != 0; }

// Every byte a token, 256 the end.
std::shared_ptr<const Vocabulary> byte_vocabulary() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  tokens.emplace_back("");
  return vocabulary_of(tokens);
}

bool accepts(const std::shared_ptr<Grammar>& grammar, std::string_view text) {
  Matcher matcher(grammar);
  for (const char c : text) {
    if (!matcher.accept(static_cast<uint8_t>(c))) return false;
  }
  return matcher.complete();
}

// Null where the constraint has no text at all, which the compiler says.
std::shared_ptr<Grammar> compiled(const std::shared_ptr<const Vocabulary>& vocabulary, const Rules& rules) {
  try {
    return std::make_shared<Grammar>(vocabulary, encode(rules));
  } catch (const Error& error) {
    const std::string what = error.what();
    check(what.find("no text satisfies") != std::string::npos ||
              what.find("left-recursive") != std::string::npos,
          what);
    return nullptr;
  }
}

// Four rules, of which each may call those behind it.
Rules random_rules(Random& random) {
  Rules rules;
  for (int32_t i = 0; i < 4; ++i) rules.push_back(random_expression(random, i == 0 ? 3 : 2, i + 1, 4));
  return rules;
}

std::string utf8(uint32_t c) {
  std::string out;
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) {
    out += static_cast<char>(0xc0 | c >> 6);
  } else {
    if (c < 0x10000) {
      out += static_cast<char>(0xe0 | c >> 12);
    } else {
      out += static_cast<char>(0xf0 | c >> 18);
      out += static_cast<char>(0x80 | (c >> 12 & 0x3f));
    }
    out += static_cast<char>(0x80 | (c >> 6 & 0x3f));
  }
  out += static_cast<char>(0x80 | (c & 0x3f));
  return out;
}

FILIGREE_TEST(grammar_has_the_texts_of_its_rules) {
  Random random(1);
  const auto vocabulary = byte_vocabulary();
  const std::vector<std::string> texts = all_texts({"a", "b", "\"", "é"}, 5);
  size_t tried = 0, derived = 0;
  for (int round = 0; round < 120; ++round) {
    const Rules rules = random_rules(random);
    const auto grammar = compiled(vocabulary, rules);
    if (!grammar) continue;
    ++tried;
    for (const std::string& text : texts) {
      const bool expected = derives(rules, text);
      derived += expected;
      check_equal(accepts(grammar, text), expected, "round " + std::to_string(round) + ": '" + text + "'");
    }
  }
  check(tried > 60 && derived > 500, "the random grammars have texts");
}

FILIGREE_TEST(grammar_recursion_reads_nested_texts) {
  // list ::= "[" (item ("," item)*)? "]"     item ::= list | "a"
  Expression items = sequence_of({call_of(1), repeat_of(sequence_of({bytes_of(","), call_of(1)}), 0, -1)});
  const Rules rules{sequence_of({bytes_of("["), repeat_of(items, 0, 1), bytes_of("]")}),
                    choice_of({call_of(0), bytes_of("a")})};
  const auto grammar = compiled(byte_vocabulary(), rules);
  for (const char* text : {"[]", "[a]", "[a,a]", "[[],[a,[[]]]]"}) check(accepts(grammar, text), text);
  for (const char* text : {"", "[", "]", "[a,]", "[a]]", "[a a]", "[[]"})
    check(!accepts(grammar, text), text);
  check(accepts(grammar, std::string(200, '[') + std::string(200, ']')), "deep nesting");
  // Deeper than the limit is refused, not followed without end.
  check(!accepts(grammar, std::string(400, '[') + std::string(400, ']')), "too deep");
}

FILIGREE_TEST(grammar_characters_are_utf8) {
  Random random(2);
  const auto vocabulary = byte_vocabulary();
  constexpr std::array<uint32_t, 16> edges{0,       0x7f,    0x80,    0x7ff,   0x800,  0xfff,
                                           0x1000,  0xcfff,  0xd000,  0xd7ff,  0xe000, 0xffff,
                                           0x10000, 0x3ffff, 0xfffff, 0x10ffff};
  const auto any = [&] {
    const uint32_t c = random.below(2) ? edges[random.below(16)] : random.below(0x110000);
    return c >= 0xd800 && c < 0xe000 ? 0xe000u : c;
  };
  for (int round = 0; round < 150; ++round) {
    std::vector<std::pair<int32_t, int32_t>> ranges;
    uint32_t from = any() / 4;
    for (uint32_t i = 1 + random.below(3); i > 0 && from <= 0x10ffff; --i) {
      const uint32_t to =
          std::min<uint32_t>(from + (random.below(2) ? random.below(9) : random.below(0x30000)), 0x10ffff);
      ranges.emplace_back(from, to);
      from = to + 2 + random.below(0x1000);
    }
    const auto inside = [&](uint32_t c) {
      for (const auto& [low, high] : ranges) {
        if (static_cast<uint32_t>(low) <= c && c <= static_cast<uint32_t>(high)) return true;
      }
      return false;
    };
    const auto grammar = compiled(vocabulary, {characters_of(ranges)});
    if (!grammar) continue;  // surrogates alone
    for (int i = 0; i < 60; ++i) {
      uint32_t c = any();
      if (i % 3 == 0) {  // near a bound
        const auto& [low, high] = ranges[random.below(static_cast<uint32_t>(ranges.size()))];
        c = static_cast<uint32_t>((random.below(2) ? low : high) + static_cast<int32_t>(random.below(3)) - 1);
        if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) continue;
      }
      check_equal(accepts(grammar, utf8(c)), inside(c), "U+" + std::to_string(c));
    }
    for (const char* broken : {"\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80", "\xff"})
      check(!accepts(grammar, broken), "what is no UTF-8");
  }
}

// The mask of a position says what reading every token byte by byte says, and never allows what the rules do not have.
FILIGREE_TEST(grammar_masks_agree_with_every_token) {
  Random random(3);
  std::vector<std::string> tokens = all_texts({"a", "b", "\"", "é"}, 3);
  for (const char* more : {"\xc3", "\xa9",
                           "\xa9"
                           "a",
                           "aaaaaaaa", "abababababababababab", "\xc3\xa9\xc3", " a", "c", "bbb\"bbb\""})
    tokens.emplace_back(more);
  tokens.emplace_back("");
  const auto vocabulary = vocabulary_of(tokens);
  size_t positions = 0;
  for (int round = 0; round < 300; ++round) {
    const auto grammar = compiled(vocabulary, random_rules(random));
    if (!grammar) continue;
    for (int walk = 0; walk < 2; ++walk) {
      Matcher matcher(grammar);
      for (int position = 0; position < 8 && !matcher.ended(); ++position, ++positions) {
        const TokenMask mask = matcher.mask();
        std::vector<int32_t> allowed;
        for (size_t token = 0; token < tokens.size(); ++token) {
          const auto id = static_cast<int32_t>(token);
          if (has(mask, token)) allowed.push_back(id);
          check_equal(has(mask, token), matcher.probe(id),
                      "round " + std::to_string(round) + ", token '" + tokens[token] + "'");
        }
        check(!allowed.empty(), "there is always a way on");
        if (allowed.empty()) break;
        check(matcher.accept(allowed[random.below(static_cast<uint32_t>(allowed.size()))]),
              "what is allowed");
      }
    }
  }
  check(positions > 1500, "positions were reached");
}

// Long runs of one class of bytes, counted and not: what is taken by whole subtrees of the trie.
FILIGREE_TEST(grammar_masks_of_counted_runs_agree) {
  std::vector<std::string> tokens = all_texts({"a", "b", "-", "7"}, 4);
  for (size_t length = 5; length < 40; length += 3) tokens.push_back(std::string(length, 'a'));
  tokens.emplace_back("aaaaaaaaaaaaaaaaaaaa7");
  tokens.emplace_back("aaaaaaaaaaaaaaaaaaaa-");
  tokens.emplace_back("");
  const auto vocabulary = vocabulary_of(tokens);
  const Expression letter = characters_of({{'a', 'b'}}), word = characters_of({{'0', '9'}, {'a', 'b'}});
  const std::vector<Expression> shapes{
      repeat_of(letter, 0, -1),
      repeat_of(letter, 2, 7),
      repeat_of(letter, 0, 30),
      sequence_of(
          {word, repeat_of(sequence_of(
                               {repeat_of(characters_of({{'-', '-'}, {'0', '9'}, {'a', 'b'}}), 0, 9), word}),
                           0, 1)}),
      repeat_of(sequence_of({repeat_of(word, 1, -1), bytes_of("-")}), 1, -1),
  };
  for (const Expression& shape : shapes) {
    for (const bool called : {false, true}) {
      // Called, the rule's end is its caller's business.
      const Rules rules = called ? Rules{sequence_of({call_of(1), bytes_of("7")}), shape} : Rules{shape};
      const auto grammar = compiled(vocabulary, rules);
      Random random(4);
      for (int walk = 0; walk < 12; ++walk) {
        Matcher matcher(grammar);
        for (int position = 0; position < 12 && !matcher.ended(); ++position) {
          const TokenMask mask = matcher.mask();
          std::vector<int32_t> allowed;
          for (size_t token = 0; token < tokens.size(); ++token) {
            const auto id = static_cast<int32_t>(token);
            if (has(mask, token)) allowed.push_back(id);
            check_equal(has(mask, token), matcher.probe(id), "token '" + tokens[token] + "'");
          }
          if (allowed.empty()) break;
          matcher.accept(allowed[random.below(static_cast<uint32_t>(allowed.size()))]);
        }
      }
    }
  }
}

FILIGREE_TEST(grammar_forced_tokens_are_the_only_way_on) {
  const auto vocabulary = vocabulary_of({"a", "b", "ab", "{", "\"", "key", "\":", "k", ""});
  const auto grammar = compiled(
      vocabulary,
      {sequence_of({bytes_of("{\"key\":"), choice_of({bytes_of("a"), bytes_of("b")}), bytes_of("ab")})});
  Matcher matcher(grammar);
  std::vector<int32_t> tokens;
  matcher.forced(16, tokens);
  check(tokens == std::vector<int32_t>{3, 4, 5, 6}, "up to the choice");
  check(matcher.accept(0), "a");
  matcher.forced(16, tokens);
  // After "a" follows "ab"; then the text ends, which no token is forced for.
  check(tokens == std::vector<int32_t>{2}, "the rest, by its longest token");
  check(matcher.complete() && matcher.exhausted() && !matcher.ended(), "complete");
  check(matcher.accept(8) && matcher.ended(), "the end");
}

FILIGREE_TEST(grammar_a_space_that_the_decoder_drops_is_no_part_of_the_text) {
  const auto vocabulary = vocabulary_of({" a", "a", " ", "  a", "b", ""}, true);
  const auto grammar = compiled(vocabulary, {bytes_of("ab")});
  Matcher first(grammar), later(grammar, true);
  check(has(first.mask(), 0) && has(first.mask(), 1) && has(first.mask(), 2), "with one space or none");
  check(!has(first.mask(), 3) && !has(later.mask(), 0) && has(later.mask(), 1),
        "not two, and none inside a text");
  check(first.accept(0) && first.accept(4) && first.complete(), "' a' 'b'");
}

FILIGREE_TEST(grammar_control_tokens_are_no_text) {
  const std::vector<uint8_t> bytes{'a', '<', 't', '>'};
  const std::vector<uint32_t> offsets{0, 1, 4, 4};
  const std::vector<int32_t> control{1, 2}, ends{2};
  const auto vocabulary = std::make_shared<const Vocabulary>(bytes, offsets, control, ends, false);
  const auto any = compiled(vocabulary, {repeat_of(characters_of({{0, 0x10ffff}}), 0, -1)});
  check(has(Matcher(any).mask(), 0) && !has(Matcher(any).mask(), 1), "'<t>' the token is not '<t>' the text");
  Expression token;
  token.op = grammar::Op::token;
  token.rule = 1;
  const auto named = compiled(vocabulary, {sequence_of({token, bytes_of("a")})});
  Matcher matcher(named);
  check(has(matcher.mask(), 1) && !has(matcher.mask(), 0), "the token where it is asked for");
  check(matcher.accept(1) && matcher.accept(0) && matcher.accept(2), "and on");
}

FILIGREE_TEST(grammar_refuses_what_has_no_end_or_no_text) {
  const auto vocabulary = byte_vocabulary();
  const auto refused = [&](const Rules& rules, const char* why) {
    try {
      Grammar(vocabulary, encode(rules));
      check(false, std::string("compiled: ") + why);
    } catch (const Error& error) {
      check(std::string(error.what()).find(why) != std::string::npos, error.what());
    }
  };
  refused({choice_of({sequence_of({call_of(0), bytes_of("a")}), bytes_of("b")})}, "left-recursive");
  refused({sequence_of({repeat_of(bytes_of("a"), 0, 1), call_of(1)}), choice_of({call_of(0), bytes_of("b")})},
          "left-recursive");
  refused({sequence_of({bytes_of("a"), call_of(0)})}, "no text satisfies");
  refused({both_of(bytes_of("a"), bytes_of("b"))}, "no text satisfies");
  refused({both_of(call_of(0), bytes_of("b"))}, "recursive part");
  refused({repeat_of(repeat_of(repeat_of(bytes_of("ab"), 1000, 1000), 1000, 1000), 9, 9)}, "too large");
  Expression deep = bytes_of("a");
  for (int i = 0; i < 500; ++i) deep = sequence_of({deep});
  refused({deep}, "nested too deeply");
}

// Numbers changed at random: a grammar or an Error, never anything else. Of use under sanitizers.
FILIGREE_TEST(grammar_damaged_programs_are_refused_or_compile) {
  Random random(5);
  const auto vocabulary = vocabulary_of({"a", "b", "\"", "é", "ab", ""});
  size_t refused = 0, made = 0;
  for (int round = 0; round < 1500; ++round) {
    std::vector<int32_t> program = encode(random_rules(random));
    for (uint32_t n = 1 + random.below(3); n > 0; --n) {
      const uint32_t at = random.below(static_cast<uint32_t>(program.size()));
      constexpr std::array<int32_t, 8> odd{-1, 0, 1, 5, 300, 3000, INT32_MAX, INT32_MIN};
      if (random.below(4) == 0) {
        program.resize(at);
        break;
      }
      const uint32_t near = static_cast<uint32_t>(program[at]) + random.below(5) - 2;
      program[at] = random.below(2) ? odd[random.below(8)] : static_cast<int32_t>(near);
    }
    try {
      Matcher matcher(std::make_shared<Grammar>(vocabulary, program));
      for (int i = 0; i < 4 && !matcher.ended(); ++i) {
        const TokenMask mask = matcher.mask();
        for (int32_t token = 0; token < 6; ++token) {
          if (has(mask, static_cast<size_t>(token)) && matcher.accept(token)) break;
        }
      }
      ++made;
    } catch (const Error&) {
      ++refused;
    }
  }
  check(made > 100 && refused > 300,
        std::to_string(made) + " compiled, " + std::to_string(refused) + " refused");
}

}  // namespace
}  // namespace filigree::test
