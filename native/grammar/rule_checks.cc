#include "grammar/rule_checks.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace filigree::grammar {

// Rules that derive some text are found from below.
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
  if (!productive[set.start]) throw Error(ErrorCode::invalid_argument, "no text satisfies the constraint");
  for (uint32_t node = 0; node < nfa.size(); ++node) {
    nfa.filter(node, [&](const Edge& edge) {
      return live[edge.to] && (edge.kind != Edge::Kind::call || productive[edge.rule]);
    });
  }
}

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
        throw Error(
            ErrorCode::invalid_argument,
            "rule " + std::to_string(callee) + " is left-recursive: it calls itself before reading anything");
      }
      if (state[callee] != unseen) continue;
      state[callee] = open;
      path.emplace_back(callee, 0);
    }
  }
}

}  // namespace filigree::grammar
