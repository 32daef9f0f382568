#include "grammar/program.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "base/status.h"
#include "grammar/determinize.h"
#include "grammar/nfa.h"
#include "grammar/token_bytes.h"

namespace filigree::grammar {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::invalid_argument, what); }

using Ranges = std::vector<std::pair<uint32_t, uint32_t>>;

// One character of `ranges` from `from` to `to` as UTF-8. Equal tails are shared: a class of a whole alphabet stays small.
class CharacterBuilder {
 public:
  CharacterBuilder(Nfa& nfa, uint32_t to, size_t& work) : nfa_(nfa), to_(to), work_(work) {}

  void build(uint32_t from, const Ranges& ranges) {
    struct Form {
      uint32_t first, last;  // code points written in this many bytes
      int continuation;
      uint8_t lead;
    };
    for (const Form& form : {Form{0, 0x7f, 0, 0x00}, Form{0x80, 0x7ff, 1, 0xc0}, Form{0x800, 0xffff, 2, 0xe0},
                             Form{0x10000, 0x10ffff, 3, 0xf0}}) {
      Ranges part;
      for (const auto& [low, high] : ranges) {
        const uint32_t a = std::max(low, form.first), b = std::min(high, form.last);
        if (a <= b) part.emplace_back(a, b);
      }
      if (!part.empty()) lead(from, part, form.continuation, form.lead);
    }
  }

 private:
  // The bytes of one position: low bytes of `part`, which counts from the start of its block.
  void lead(uint32_t from, const Ranges& part, int continuation, uint8_t base) {
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
      Ranges inside;
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

  uint32_t tail(const Ranges& ranges, int continuation) {
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
  std::map<std::pair<int, Ranges>, uint32_t> tails_;
};

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
        Ranges ranges;
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
        if (!ranges.empty()) CharacterBuilder(nfa, to, work_).build(from, ranges);
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

// Rules that derive some text, found from below; then nothing but what leads to the end of a rule is kept.
void trim(RuleSet& set) {
  Nfa& nfa = set.nfa;
  std::vector<std::vector<uint32_t>> reversed(nfa.size());
  std::vector<std::vector<std::pair<uint32_t, uint32_t>>> callers(set.rules.size());  // (from, to) by rule
  for (uint32_t node = 0; node < nfa.size(); ++node) {
    nfa.each(node, [&](const Edge& edge) {
      if (edge.kind == Edge::Kind::call) {
        callers[edge.rule].emplace_back(node, edge.to);
      } else {
        reversed[edge.to].push_back(node);
      }
    });
  }
  std::vector<bool> live(nfa.size(), false), productive(set.rules.size(), false);
  std::vector<std::vector<uint32_t>> waiting(
      nfa.size());  // callers of productive rules, by the node behind the call
  std::vector<uint32_t> rule_of_start(nfa.size(), ~uint32_t{0});
  for (uint32_t r = 0; r < set.rules.size(); ++r) rule_of_start[set.rules[r].start] = r;
  std::vector<uint32_t> work;
  const auto reach = [&](uint32_t node) {
    if (live[node]) return;
    live[node] = true;
    work.push_back(node);
  };
  for (const Rule& rule : set.rules) reach(rule.accept);
  while (!work.empty()) {
    const uint32_t node = work.back();
    work.pop_back();
    for (const uint32_t from : reversed[node]) reach(from);
    for (const uint32_t from : waiting[node]) reach(from);
    const uint32_t rule = rule_of_start[node];
    if (rule == ~uint32_t{0} || productive[rule]) continue;
    productive[rule] = true;
    for (const auto& [from, to] : callers[rule]) {
      waiting[to].push_back(from);
      if (live[to]) reach(from);
    }
  }
  if (!productive[set.start]) refuse("no text satisfies the constraint");
  for (uint32_t node = 0; node < nfa.size(); ++node) {
    nfa.filter(node, [&](const Edge& edge) {
      return live[edge.to] && (edge.kind != Edge::Kind::call || productive[edge.rule]);
    });
  }
}

// A rule that calls itself before it has read a byte would be entered without end.
void refuse_left_recursion(const RuleSet& set) {
  const Nfa& nfa = set.nfa;
  std::vector<bool> nullable(set.rules.size(), false);
  std::vector<uint32_t> stamp(nfa.size(), 0), work;
  uint32_t round = 0;
  // Nodes reached from the start of a rule without reading; calls are reported, and passed where the rule may be empty.
  const auto walk = [&](uint32_t rule, auto&& on_call) {
    ++round;
    work.assign(1, set.rules[rule].start);
    stamp[set.rules[rule].start] = round;
    bool reached = false;
    while (!work.empty()) {
      const uint32_t node = work.back();
      work.pop_back();
      reached |= node == set.rules[rule].accept;
      nfa.each(node, [&](const Edge& edge) {
        if (edge.kind == Edge::Kind::bytes) return;
        if (edge.kind == Edge::Kind::call) {
          on_call(edge.rule);
          if (!nullable[edge.rule]) return;
        }
        if (stamp[edge.to] == round) return;
        stamp[edge.to] = round;
        work.push_back(edge.to);
      });
    }
    return reached;
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (uint32_t rule = 0; rule < set.rules.size(); ++rule) {
      if (nullable[rule]) continue;
      if (walk(rule, [](uint32_t) {})) nullable[rule] = changed = true;
    }
  }
  std::vector<std::vector<uint32_t>> first(set.rules.size());
  for (uint32_t rule = 0; rule < set.rules.size(); ++rule) {
    walk(rule, [&](uint32_t callee) { first[rule].push_back(callee); });
  }
  enum : uint8_t { unseen, open, done };
  std::vector<uint8_t> state(set.rules.size(), unseen);
  for (uint32_t root = 0; root < set.rules.size(); ++root) {
    if (state[root] != unseen) continue;
    std::vector<std::pair<uint32_t, size_t>> path{{root, 0}};
    state[root] = open;
    while (!path.empty()) {
      auto& [rule, next] = path.back();
      if (next == first[rule].size()) {
        state[rule] = done;
        path.pop_back();
        continue;
      }
      const uint32_t callee = first[rule][next++];
      if (state[callee] == open) {
        refuse("rule " + std::to_string(callee) +
               " is left-recursive: it calls itself before reading anything");
      }
      if (state[callee] != unseen) continue;
      state[callee] = open;
      path.emplace_back(callee, 0);
    }
  }
}

}  // namespace

RuleSet compile(std::span<const int32_t> program) {
  RuleSet set = Compiler(program).compile();
  trim(set);
  refuse_left_recursion(set);
  return set;
}

}  // namespace filigree::grammar
