#include "grammar/program.h"

#include <algorithm>
#include <string>

#include "base/status.h"
#include "grammar/characters.h"
#include "grammar/determinize.h"
#include "grammar/nfa.h"
#include "grammar/rule_checks.h"
#include "grammar/token_bytes.h"

namespace filigree::grammar {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::invalid_argument, what); }

class Compiler {
 public:
  explicit Compiler(std::span<const int32_t> program) : program_(program) {}

  RuleSet compile() {
    size_t at = 0;
    if (number(at, "version") != kProgramVersion) refuse("the grammar was written for another version");
    const int32_t count = number(at, "rules"), start = number(at, "start");
    if (count < 1 || static_cast<size_t>(count) > Limits::rules || start < 0 || start >= count) {
      refuse("a grammar may have 1 to " + std::to_string(Limits::rules) + " rules");
    }
    rules_ = static_cast<uint32_t>(count);
    RuleSet set;
    set.start = static_cast<uint32_t>(start);
    for (int32_t i = 0; i < count; ++i) {
      const int32_t length = number(at, "length");
      if (length < 1 || static_cast<size_t>(length) > program_.size() - at) refuse("a rule is cut off");
      const size_t end = at + static_cast<size_t>(length);
      const uint32_t from = set.nfa.add_node(), to = set.nfa.add_node();
      expression(set.nfa, at, from, to, 0, true);
      if (at != end) refuse("a rule has another length than it says");
      set.rules.push_back({from, to});
    }
    if (at != program_.size()) refuse("numbers follow the last rule");
    return set;
  }

 private:
  int32_t number(size_t& at, const char* what) const {
    if (at >= program_.size()) refuse(std::string("the grammar ends before its ") + what);
    return program_[at++];
  }

  size_t count(size_t& at) const {
    const int32_t n = number(at, "count");
    if (n < 0 || static_cast<size_t>(n) > program_.size()) refuse("a count is out of range");
    return static_cast<size_t>(n);
  }

  void spend(const Nfa& nfa, size_t depth) {
    if (depth > Limits::depth) refuse("the grammar is nested too deeply");
    if (++work_ > Limits::work || nfa.size() > Limits::nodes || nfa.edge_count() > 4 * Limits::nodes) {
      refuse("the grammar is too large: lower the bounds of its repetitions, or its number of alternatives");
    }
  }

  // Adds what the expression at `at` derives between two nodes, and moves `at` behind it.
  void expression(Nfa& nfa, size_t& at, uint32_t from, uint32_t to, size_t depth, bool calls) {
    spend(nfa, depth);
    switch (static_cast<Op>(number(at, "expression"))) {
      case Op::empty:
        return nfa.epsilon(from, to);
      case Op::never:
        return;
      case Op::bytes: {
        uint32_t here = from;
        for (size_t n = count(at); n > 0; --n) {
          const int32_t byte = number(at, "byte");
          if (byte < 0 || byte > 255) refuse("a byte is out of range");
          const uint32_t next = nfa.add_node();
          nfa.bytes(here, static_cast<uint8_t>(byte), static_cast<uint8_t>(byte), next);
          here = next;
        }
        return nfa.epsilon(here, to);
      }
      case Op::chars: {
        CharacterRanges ranges;
        for (size_t n = count(at); n > 0; --n) {
          const int32_t low = number(at, "character"), high = number(at, "character");
          if (low < 0 || high < low || high > 0x10ffff ||
              (!ranges.empty() && ranges.back().second >= static_cast<uint32_t>(low))) {
            refuse("a range of characters is malformed");
          }
          // Halves of surrogate pairs are no characters of UTF-8.
          const auto a = static_cast<uint32_t>(low), b = static_cast<uint32_t>(high);
          if (a < 0xd800 && b > 0xdfff) {
            ranges.emplace_back(a, 0xd7ff);
            ranges.emplace_back(0xe000, b);
          } else {
            const uint32_t x = a >= 0xd800 && a <= 0xdfff ? 0xe000 : a;
            const uint32_t y = b >= 0xd800 && b <= 0xdfff ? 0xd7ff : b;
            if (x <= y) ranges.emplace_back(x, y);
          }
        }
        if (!ranges.empty()) add_character(nfa, from, to, ranges, work_);
        return;
      }
      case Op::sequence: {
        uint32_t here = from;
        for (size_t n = count(at); n > 0; --n) {
          const uint32_t next = nfa.add_node();
          expression(nfa, at, here, next, depth + 1, calls);
          here = next;
        }
        return nfa.epsilon(here, to);
      }
      case Op::choice:
        for (size_t n = count(at); n > 0; --n) {
          const uint32_t a = nfa.add_node(), b = nfa.add_node();
          nfa.epsilon(from, a);
          nfa.epsilon(b, to);
          expression(nfa, at, a, b, depth + 1, calls);
        }
        return;
      case Op::repeat: {
        const int32_t min = number(at, "bound"), max = number(at, "bound");
        if (min < 0 || (max >= 0 && max < min)) refuse("the bounds of a repetition are malformed");
        return repeat(nfa, at, from, to, min, max, depth, calls);
      }
      case Op::call: {
        const int32_t rule = number(at, "rule");
        if (rule < 0 || static_cast<uint32_t>(rule) >= rules_) refuse("a rule does not exist");
        if (!calls) refuse("a recursive part cannot be intersected with another");
        return nfa.call(from, static_cast<uint32_t>(rule), to);
      }
      case Op::token: {
        const int32_t id = number(at, "token");
        if (id < 0 || id > 0xffffff) refuse("a token is out of range");
        uint32_t here = from;
        for (const uint8_t byte : control_token_bytes(static_cast<uint32_t>(id))) {
          const uint32_t next = nfa.add_node();
          nfa.bytes(here, byte, byte, next);
          here = next;
        }
        return nfa.epsilon(here, to);
      }
      case Op::both:
      case Op::without: {
        const bool minus = static_cast<Op>(program_[at - 1]) == Op::without;
        const Dfa a = operand(at, depth);
        const Dfa b = operand(at, depth);
        return emit(product(a, b, minus), nfa, from, to);
      }
      case Op::separated:
        return separated(nfa, at, from, to, depth, calls);
    }
    refuse("an expression is of no known kind");
  }

  void repeat(Nfa& nfa, size_t& at, uint32_t from, uint32_t to, int32_t min, int32_t max, size_t depth,
              bool calls) {
    const size_t body = at;
    uint32_t here = from;
    for (int32_t i = 0; i < min; ++i) {
      const uint32_t next = nfa.add_node();
      at = body;
      expression(nfa, at, here, next, depth + 1, calls);
      here = next;
    }
    if (max < 0) {
      const uint32_t loop = nfa.add_node(), end = nfa.add_node();
      nfa.epsilon(here, loop);
      nfa.epsilon(end, loop);
      nfa.epsilon(loop, to);
      at = body;
      return expression(nfa, at, loop, end, depth + 1, calls);
    }
    for (int32_t i = min; i < max; ++i) {
      const uint32_t next = nfa.add_node();
      nfa.epsilon(here, to);
      at = body;
      expression(nfa, at, here, next, depth + 1, calls);
      here = next;
    }
    nfa.epsilon(here, to);
    if (max == 0) skip(at, depth);
  }

  // Two lanes through the items: `fresh` while nothing was written, `going` once something was, and a separator is due.
  void separated(Nfa& nfa, size_t& at, uint32_t from, uint32_t to, size_t depth, bool calls) {
    const int32_t flags = number(at, "flags");
    const bool stops = (flags & 1) != 0, at_least_one = (flags & 2) != 0;
    const size_t separator = at;
    skip(at, depth);
    int64_t fresh = from, going = -1;
    const auto between = [&](uint32_t a, uint32_t b) {
      size_t position = separator;
      expression(nfa, position, a, b, depth + 1, calls);
    };
    for (size_t items = count(at); items > 0; --items) {
      const int32_t min = number(at, "bound"), max = number(at, "bound");
      if (min < 0 || (max >= 0 && max < min)) refuse("the bounds of an item are malformed");
      const size_t body = at;
      skip(at, depth);
      // The last of the copies that must be there loops where the item has no upper bound.
      const int32_t copies = max >= 0 ? max : std::max(min, 1);
      for (int32_t i = 0; i < copies; ++i) {
        spend(nfa, depth);
        const bool optional = i >= min;
        const uint32_t begin = nfa.add_node(), end = nfa.add_node();
        if (fresh >= 0) nfa.epsilon(static_cast<uint32_t>(fresh), begin);
        if (going >= 0) between(static_cast<uint32_t>(going), begin);
        size_t position = body;
        expression(nfa, position, begin, end, depth + 1, calls);
        if (max < 0 && i + 1 == copies) between(end, begin);
        const uint32_t next = nfa.add_node();
        nfa.epsilon(end, next);
        if (optional) {
          const uint32_t past = stops ? to : next;
          if (going >= 0) nfa.epsilon(static_cast<uint32_t>(going), past);
          if (stops && fresh >= 0 && !at_least_one) nfa.epsilon(static_cast<uint32_t>(fresh), to);
        }
        if (!optional || stops) fresh = -1;
        going = next;
      }
    }
    if (fresh >= 0 && !at_least_one) nfa.epsilon(static_cast<uint32_t>(fresh), to);
    if (going >= 0) nfa.epsilon(static_cast<uint32_t>(going), to);
  }

  // Moves `at` behind an expression.
  void skip(size_t& at, size_t depth) {
    if (depth > Limits::depth) refuse("the grammar is nested too deeply");
    if (++work_ > Limits::work) refuse("the grammar is too large");
    const auto pass = [&](size_t numbers) {
      if (numbers > program_.size() - at) refuse("an expression is cut off");
      at += numbers;
    };
    size_t children = 0, bounds = 0;
    switch (static_cast<Op>(number(at, "expression"))) {
      case Op::empty:
      case Op::never:
        return;
      case Op::bytes:
        return pass(count(at));
      case Op::chars:
        return pass(2 * count(at));
      case Op::call:
      case Op::token:
        return pass(1);
      case Op::sequence:
      case Op::choice:
        children = count(at);
        break;
      case Op::repeat:
        pass(2);
        children = 1;
        break;
      case Op::both:
      case Op::without:
        children = 2;
        break;
      case Op::separated:
        pass(1);
        skip(at, depth + 1);
        children = count(at);
        bounds = 2;
        break;
      default:
        refuse("an expression is of no known kind");
    }
    for (; children > 0; --children) {
      pass(bounds);
      skip(at, depth + 1);
    }
  }

  Dfa operand(size_t& at, size_t depth) {
    Nfa nfa;
    const uint32_t from = nfa.add_node(), to = nfa.add_node();
    expression(nfa, at, from, to, depth + 1, false);
    return determinize(nfa, from, to);
  }

  std::span<const int32_t> program_;
  uint32_t rules_ = 0;
  size_t work_ = 0;
};

}  // namespace

RuleSet compile(std::span<const int32_t> program) {
  RuleSet set = Compiler(program).compile();
  trim(set);
  refuse_left_recursion(set);
  return set;
}

}  // namespace filigree::grammar
