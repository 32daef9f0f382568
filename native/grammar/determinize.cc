#include "grammar/determinize.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/status.h"
#include "grammar/program.h"

namespace filigree::grammar {
namespace {

using Set = std::vector<uint32_t>;

[[noreturn]] void too_large() {
  throw Error(ErrorCode::invalid_argument,
              "a pattern combined with another bound is too large; lower the length or simplify the pattern");
}

void close(const Nfa& nfa, Set& set, std::vector<bool>& seen) {
  for (const uint32_t node : set) seen[node] = true;
  for (size_t i = 0; i < set.size(); ++i) {
    nfa.each(set[i], [&](const Edge& edge) {
      if (edge.kind != Edge::Kind::epsilon || seen[edge.to]) return;
      seen[edge.to] = true;
      set.push_back(edge.to);
    });
  }
  for (const uint32_t node : set) seen[node] = false;
  std::sort(set.begin(), set.end());
}

}  // namespace

Dfa determinize(const Nfa& nfa, uint32_t from, uint32_t to) {
  // Bytes that no edge tells apart are one.
  std::array<bool, 257> cut{};
  cut[0] = true;
  for (uint32_t node = 0; node < nfa.size(); ++node) {
    nfa.each(node, [&](const Edge& edge) {
      if (edge.kind != Edge::Kind::bytes) return;
      cut[edge.low] = true;
      cut[edge.high + 1u] = true;
    });
  }
  Dfa dfa;
  std::map<Set, int32_t> ids;
  std::vector<const Set*> sets;
  std::vector<bool> seen(nfa.size(), false);
  const auto intern = [&](Set set) {
    close(nfa, set, seen);
    const auto [entry, fresh] = ids.try_emplace(std::move(set), static_cast<int32_t>(sets.size()));
    if (fresh) {
      if (sets.size() >= Limits::product_states) too_large();
      sets.push_back(&entry->first);
      dfa.next.emplace_back().fill(-1);
      dfa.accept.push_back(std::binary_search(entry->first.begin(), entry->first.end(), to));
    }
    return entry->second;
  };
  intern({from});
  for (size_t state = 0; state < sets.size(); ++state) {
    for (unsigned byte = 0; byte < 256;) {
      unsigned end = byte + 1;
      while (end < 256 && !cut[end]) ++end;
      Set next;
      for (const uint32_t node : *sets[state]) {
        nfa.each(node, [&](const Edge& edge) {
          if (edge.kind == Edge::Kind::bytes && edge.low <= byte && byte <= edge.high)
            next.push_back(edge.to);
        });
      }
      if (!next.empty()) {
        std::sort(next.begin(), next.end());
        next.erase(std::unique(next.begin(), next.end()), next.end());
        const int32_t id = intern(std::move(next));
        std::fill(dfa.next[state].begin() + byte, dfa.next[state].begin() + end, id);
      }
      byte = end;
    }
  }
  return dfa;
}

Dfa product(const Dfa& a, const Dfa& b, bool minus) {
  Dfa out;
  std::map<std::pair<int32_t, int32_t>, int32_t> ids;
  std::vector<std::pair<int32_t, int32_t>> pairs;
  const auto intern = [&](int32_t x, int32_t y) {
    const auto [entry, fresh] = ids.try_emplace({x, y}, static_cast<int32_t>(pairs.size()));
    if (fresh) {
      if (pairs.size() >= Limits::product_states) too_large();
      pairs.emplace_back(x, y);
      const bool in_b = y >= 0 && b.accept[static_cast<size_t>(y)];
      out.next.emplace_back().fill(-1);
      out.accept.push_back(a.accept[static_cast<size_t>(x)] && in_b != minus);
    }
    return entry->second;
  };
  intern(0, 0);
  for (size_t state = 0; state < pairs.size(); ++state) {
    const auto [x, y] = pairs[state];
    for (size_t byte = 0; byte < 256; ++byte) {
      const int32_t nx = a.next[static_cast<size_t>(x)][byte];
      const int32_t ny = y < 0 ? -1 : b.next[static_cast<size_t>(y)][byte];
      if (nx < 0 || (!minus && ny < 0)) continue;
      const int32_t id = intern(nx, ny);
      out.next[state][byte] = id;
    }
  }
  return out;
}

void emit(const Dfa& dfa, Nfa& nfa, uint32_t from, uint32_t to) {
  std::vector<uint32_t> nodes(dfa.next.size());
  for (uint32_t& node : nodes) node = nfa.add_node();
  nfa.epsilon(from, nodes[0]);
  for (size_t state = 0; state < nodes.size(); ++state) {
    if (dfa.accept[state]) nfa.epsilon(nodes[state], to);
    for (size_t byte = 0; byte < 256;) {
      const int32_t next = dfa.next[state][byte];
      size_t end = byte + 1;
      while (end < 256 && dfa.next[state][end] == next) ++end;
      if (next >= 0) {
        nfa.bytes(nodes[state], static_cast<uint8_t>(byte), static_cast<uint8_t>(end - 1),
                  nodes[static_cast<size_t>(next)]);
      }
      byte = end;
    }
  }
}

}  // namespace filigree::grammar
