#include "grammar_fixture.h"

#include <functional>
#include <utility>

namespace filigree::test {

using grammar::Op;

namespace {

Expression node(Op op, std::vector<Expression> children = {}) {
  Expression e;
  e.op = op;
  e.children = std::move(children);
  return e;
}

void encode(const Expression& e, std::vector<int32_t>& out) {
  const auto put = [&](int64_t number) { out.push_back(static_cast<int32_t>(number)); };
  put(static_cast<int32_t>(e.op));
  switch (e.op) {
    case Op::bytes:
      put(static_cast<int64_t>(e.text.size()));
      for (const char c : e.text) put(static_cast<uint8_t>(c));
      return;
    case Op::chars:
      put(static_cast<int64_t>(e.ranges.size()));
      for (const auto& [low, high] : e.ranges) put(low), put(high);
      return;
    case Op::sequence:
    case Op::choice:
      put(static_cast<int64_t>(e.children.size()));
      break;
    case Op::repeat:
      put(e.min), put(e.max);
      break;
    case Op::call:
    case Op::token:
      put(e.rule);
      return;
    case Op::separated:
      put(e.flags);
      encode(e.children[0], out);
      put(static_cast<int64_t>(e.items.size()));
      for (size_t i = 0; i < e.items.size(); ++i) {
        put(e.items[i].min), put(e.items[i].max);
        encode(e.children[i + 1], out);
      }
      return;
    default:
      break;
  }
  for (const Expression& child : e.children) encode(child, out);
}

std::set<size_t> separated_ends(const Rules& rules, const Expression& e, std::string_view text, size_t from) {
  const bool stops = (e.flags & 1) != 0, at_least_one = (e.flags & 2) != 0;
  std::set<size_t> ends;
  std::set<std::tuple<size_t, int32_t, size_t, bool>> seen;
  const std::function<void(size_t, int32_t, size_t, bool)> go = [&](size_t item, int32_t copies, size_t at,
                                                                    bool written) {
    if (copies > static_cast<int32_t>(text.size()) + 3 || !seen.emplace(item, copies, at, written).second)
      return;
    const auto finish = [&] {
      if (written || !at_least_one) ends.insert(at);
    };
    if (item == e.items.size()) return finish();
    const auto [min, max] = e.items[item];
    if (max < 0 || copies < max) {
      std::set<size_t> starts{at};
      if (written) starts = ends_of(rules, e.children[0], text, at);
      for (const size_t start : starts) {
        for (const size_t end : ends_of(rules, e.children[item + 1], text, start))
          go(item, copies + 1, end, true);
      }
    }
    if (copies < min) return;
    const bool left_out = copies < (max < 0 ? std::max(min, 1) : max);
    if (left_out && stops) return finish();
    go(item + 1, 0, at, written);
  };
  go(0, 0, from, false);
  return ends;
}

}  // namespace

Expression bytes_of(std::string text) {
  Expression e = node(Op::bytes);
  e.text = std::move(text);
  return e;
}
Expression sequence_of(std::vector<Expression> parts) { return node(Op::sequence, std::move(parts)); }
Expression choice_of(std::vector<Expression> parts) { return node(Op::choice, std::move(parts)); }
Expression repeat_of(Expression part, int32_t min, int32_t max) {
  Expression e = node(Op::repeat, {std::move(part)});
  e.min = min, e.max = max;
  return e;
}
Expression call_of(int32_t rule) {
  Expression e = node(Op::call);
  e.rule = rule;
  return e;
}
Expression characters_of(std::vector<std::pair<int32_t, int32_t>> ranges) {
  Expression e = node(Op::chars);
  e.ranges = std::move(ranges);
  return e;
}
Expression both_of(Expression a, Expression b) { return node(Op::both, {std::move(a), std::move(b)}); }
Expression without_of(Expression a, Expression b) { return node(Op::without, {std::move(a), std::move(b)}); }

std::vector<int32_t> encode(const Rules& rules) {
  std::vector<int32_t> out{grammar::kProgramVersion, static_cast<int32_t>(rules.size()), 0};
  for (const Expression& rule : rules) {
    std::vector<int32_t> numbers;
    encode(rule, numbers);
    out.push_back(static_cast<int32_t>(numbers.size()));
    out.insert(out.end(), numbers.begin(), numbers.end());
  }
  return out;
}

std::set<size_t> ends_of(const Rules& rules, const Expression& e, std::string_view text, size_t from) {
  const auto through = [&](const std::set<size_t>& starts, const Expression& part) {
    std::set<size_t> ends;
    for (const size_t start : starts) ends.merge(ends_of(rules, part, text, start));
    return ends;
  };
  switch (e.op) {
    case Op::empty:
      return {from};
    case Op::bytes:
      return text.substr(from).starts_with(e.text) ? std::set{from + e.text.size()} : std::set<size_t>{};
    case Op::chars:  // of ASCII alone: the tests of UTF-8 have an oracle of their own
      if (from == text.size()) return {};
      for (const auto& [low, high] : e.ranges) {
        const int32_t c = static_cast<uint8_t>(text[from]);
        if (c < 0x80 && low <= c && c <= high) return {from + 1};
      }
      return {};
    case Op::sequence: {
      std::set<size_t> at{from};
      for (const Expression& part : e.children) at = through(at, part);
      return at;
    }
    case Op::choice: {
      std::set<size_t> ends;
      for (const Expression& part : e.children) ends.merge(ends_of(rules, part, text, from));
      return ends;
    }
    case Op::repeat: {
      std::set<size_t> at{from}, ends;
      for (int32_t i = 0;
           !at.empty() && (e.max < 0 ? i <= e.min + static_cast<int32_t>(text.size()) : i <= e.max); ++i) {
        if (i >= e.min) ends.insert(at.begin(), at.end());
        if (e.max < 0 || i < e.max) at = through(at, e.children[0]);
      }
      return ends;
    }
    case Op::call:
      return ends_of(rules, rules[static_cast<size_t>(e.rule)], text, from);
    case Op::both:
    case Op::without: {
      const std::set<size_t> a = ends_of(rules, e.children[0], text, from);
      const std::set<size_t> b = ends_of(rules, e.children[1], text, from);
      std::set<size_t> ends;
      for (const size_t end : a) {
        if (b.contains(end) == (e.op == Op::both)) ends.insert(end);
      }
      return ends;
    }
    case Op::separated:
      return separated_ends(rules, e, text, from);
    default:
      return {};
  }
}

Expression random_expression(Random& random, int depth, int32_t first, int32_t callable) {
  const auto child = [&](bool calls = true) {
    return random_expression(random, depth - 1, first, calls ? callable : 0);
  };
  if (depth == 0) {
    switch (random.below(callable > first ? 6 : 5)) {
      case 0:
        return bytes_of("a");
      case 1:
        return bytes_of("b\"");
      case 2:
        return bytes_of("é");
      case 3:
        return characters_of({{'a', 'b'}});
      case 4:
        return node(Op::empty);
      default:
        return call_of(first + static_cast<int32_t>(random.below(static_cast<uint32_t>(callable - first))));
    }
  }
  switch (random.below(6)) {
    case 0:
      return sequence_of({child(), child()});
    case 1:
      return choice_of({child(), child(), child()});
    case 2: {
      const auto min = static_cast<int32_t>(random.below(3));
      return repeat_of(child(), min, random.below(2) ? -1 : min + static_cast<int32_t>(random.below(3)));
    }
    case 3:
      return both_of(child(false), child(false));
    case 4:
      return without_of(child(false), child(false));
    default: {
      Expression e = node(Op::separated, {bytes_of("b")});
      e.flags = static_cast<int32_t>(random.below(4));
      for (uint32_t i = 1 + random.below(3); i > 0; --i) {
        const auto min = static_cast<int32_t>(random.below(2));
        e.items.push_back({min, random.below(3) == 0 ? -1 : min + static_cast<int32_t>(random.below(2))});
        e.children.push_back(child());
      }
      return e;
    }
  }
}

std::shared_ptr<const grammar::Vocabulary> vocabulary_of(const std::vector<std::string>& tokens,
                                                         bool strips_leading_space) {
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> offsets{0};
  for (const std::string& token : tokens) {
    bytes.insert(bytes.end(), token.begin(), token.end());
    offsets.push_back(static_cast<uint32_t>(bytes.size()));
  }
  const std::vector<int32_t> end{static_cast<int32_t>(tokens.size()) - 1};
  return std::make_shared<const grammar::Vocabulary>(bytes, offsets, end, end, strips_leading_space);
}

std::vector<std::string> all_texts(const std::vector<std::string>& alphabet, size_t longest) {
  std::vector<std::string> texts{""};
  for (size_t from = 0, length = 0; length < longest; ++length) {
    const size_t to = texts.size();
    for (; from < to; ++from) {
      for (const std::string& letter : alphabet) texts.push_back(texts[from] + letter);
    }
  }
  return texts;
}

}  // namespace filigree::test
