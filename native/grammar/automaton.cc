#include "grammar/automaton.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/status.h"
#include "grammar/program.h"

namespace filigree::grammar {
namespace {

[[noreturn]] void too_ambiguous(const char* what) {
  throw Error(ErrorCode::unsupported,
              std::string("the constraint is too ambiguous: its text has too many ") + what);
}

}  // namespace

size_t Automaton::Hash::operator()(const std::vector<uint32_t>& nodes) const {
  uint64_t hash = 1469598103934665603u;
  for (const uint32_t node : nodes) hash = (hash ^ node) * 1099511628211u;
  return static_cast<size_t>(hash ^ (hash >> 29));
}

Automaton::Automaton(RuleSet rules) : rules_(std::move(rules)) {
  // Bytes that no edge of the grammar tells apart share a column.
  std::array<bool, 257> cut{};
  for (uint32_t node = 0; node < rules_.nfa.size(); ++node) {
    rules_.nfa.each(node, [&](const Edge& edge) {
      if (edge.kind != Edge::Kind::bytes) return;
      cut[edge.low] = true;
      cut[edge.high + 1u] = true;
    });
  }
  uint8_t current = 0;
  for (size_t byte = 0; byte < 256; ++byte) {
    if (byte > 0 && cut[byte]) ++current;
    class_of_[byte] = current;
  }
  classes_ = size_t{current} + 1;
  stamp_.assign(rules_.nfa.size(), 0);
  rule_starts_.assign(rules_.rules.size(), -1);
  stacks_ = {{0, 0, 0}, {0, 0, 0}};
  start_ = rule_start(rules_.start);
}

uint32_t Automaton::rule_start(uint32_t rule) {
  if (rule_starts_[rule] < 0) {
    const Rule& r = rules_.rules[rule];
    std::vector<uint32_t> nodes{r.start};
    const uint32_t made = intern(nodes, r.accept);
    rule_starts_[rule] = static_cast<int32_t>(made);
  }
  return static_cast<uint32_t>(rule_starts_[rule]);
}

uint32_t Automaton::intern(std::vector<uint32_t>& nodes, uint32_t accept_node) {
  ++round_;
  std::vector<uint32_t>& kept = kept_;
  kept.clear();
  for (const uint32_t node : nodes) stamp_[node] = round_;
  bool has_bytes = false, has_calls = false, accept = false;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const uint32_t node = nodes[i];
    bool keep = node == accept_node;
    accept |= keep;
    rules_.nfa.each(node, [&](const Edge& edge) {
      if (edge.kind == Edge::Kind::epsilon) {
        if (stamp_[edge.to] == round_) return;
        stamp_[edge.to] = round_;
        nodes.push_back(edge.to);
        return;
      }
      keep = true;
      (edge.kind == Edge::Kind::bytes ? has_bytes : has_calls) = true;
    });
    if (keep) kept.push_back(node);
  }
  std::sort(kept.begin(), kept.end());
  kept.push_back(accept_node);  // rules share no nodes, but an empty set would not say whose it is
  if (const auto known = ids_.find(kept); known != ids_.end()) return known->second;
  if (states_.size() >= Limits::states) too_ambiguous("states");
  const auto id = static_cast<uint32_t>(states_.size());
  ids_.emplace(kept, id);
  State state;
  state.nodes.assign(kept.begin(), kept.end() - 1);
  state.accept = accept;
  state.has_bytes = has_bytes;
  state.has_calls = has_calls;
  state.accept_node = accept_node;
  states_.push_back(std::move(state));
  simple_.push_back(accept || has_calls ? 0 : 1);
  next_.resize(next_.size() + classes_, kUnmade);
  return id;
}

// All of a state's steps at once: bytes that its own edges do not tell apart, most of them, are looked up together.
void Automaton::make_row(uint32_t state) {
  std::array<uint8_t, 257> cut{};
  for (const uint32_t node : states_[state].nodes) {
    rules_.nfa.each(node, [&](const Edge& edge) {
      if (edge.kind == Edge::Kind::bytes) cut[edge.low] = cut[edge.high + 1u] = 1;
    });
  }
  std::array<uint8_t, 256> part_of{};  // the parts that the edges cut the bytes into
  uint8_t part = 0;
  for (size_t byte = 1; byte < 256; ++byte) part_of[byte] = part = static_cast<uint8_t>(part + cut[byte]);

  reached_.clear();
  for (const uint32_t node : states_[state].nodes) {
    rules_.nfa.each(node, [&](const Edge& edge) {
      if (edge.kind != Edge::Kind::bytes) return;
      for (uint32_t p = part_of[edge.low]; p <= part_of[edge.high]; ++p) reached_.emplace_back(p, edge.to);
    });
  }
  std::sort(reached_.begin(), reached_.end());
  reached_.erase(std::unique(reached_.begin(), reached_.end()), reached_.end());
  std::array<int32_t, 256> to;  // by part
  to.fill(kDead);
  const uint32_t accept_node = states_[state].accept_node;
  for (size_t i = 0; i < reached_.size();) {
    const uint32_t here = reached_[i].first;
    set_.clear();
    for (; i < reached_.size() && reached_[i].first == here; ++i) set_.push_back(reached_[i].second);
    to[here] = static_cast<int32_t>(intern(set_, accept_node));
  }
  for (size_t byte = 0; byte < 256; ++byte) next_[state * classes_ + class_of_[byte]] = to[part_of[byte]];
}

const std::vector<Automaton::Call>& Automaton::calls(uint32_t state) {
  if (!states_[state].calls_made) {
    std::vector<std::pair<uint32_t, uint32_t>> edges;  // rule, node behind
    for (const uint32_t node : states_[state].nodes) {
      rules_.nfa.each(node, [&](const Edge& edge) {
        if (edge.kind == Edge::Kind::call) edges.emplace_back(edge.rule, edge.to);
      });
    }
    std::sort(edges.begin(), edges.end());
    edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
    std::vector<Call> made;
    for (size_t i = 0; i < edges.size();) {
      std::vector<uint32_t> targets;
      const uint32_t rule = edges[i].first;
      for (; i < edges.size() && edges[i].first == rule; ++i) targets.push_back(edges[i].second);
      const uint32_t target = intern(targets, states_[state].accept_node);
      made.push_back({rule_start(rule), target});
    }
    states_[state].calls = std::move(made);
    states_[state].calls_made = true;
  }
  return states_[state].calls;
}

uint32_t Automaton::push(uint32_t state, uint32_t rest) {
  const auto [entry, fresh] =
      stack_ids_.try_emplace(uint64_t{state} << 32 | rest, static_cast<uint32_t>(stacks_.size()));
  if (fresh) {
    if (stacks_.size() >= 16 * Limits::states) too_ambiguous("stacks");
    stacks_.push_back({state, rest, stacks_[rest].depth + 1});
  }
  return entry->second;
}

void Automaton::enter(Thread thread, std::vector<Thread>& threads, size_t from, Outcome& outcome) {
  const size_t base = entered_.size();
  entered_.push_back(thread);
  const auto visit = [&](Thread t) {
    if (std::find(entered_.begin() + static_cast<ptrdiff_t>(base), entered_.end(), t) == entered_.end()) {
      entered_.push_back(t);
    }
  };
  for (size_t i = base; i < entered_.size(); ++i) {
    const Thread t = entered_[i];
    if (entered_.size() - base > 4 * Limits::threads) too_ambiguous("readings");
    if (states_[t.state].accept) {
      if (t.stack == kRoot) {
        outcome.complete = true;
      } else if (t.stack == kUnknown) {
        outcome.left = true;
      } else {
        visit({stacks_[t.stack].state, stacks_[t.stack].rest});
      }
    }
    if (states_[t.state].has_calls) {
      for (const Call call : calls(t.state)) {
        const bool last = accepts(call.target) && final_only(call.target);
        if (!last && stacks_[t.stack].depth >= Limits::stack_depth) continue;
        visit({call.start, last ? t.stack : push(call.target, t.stack)});
      }
    }
    if (!states_[t.state].has_bytes) continue;
    if (std::find(threads.begin() + static_cast<ptrdiff_t>(from), threads.end(), t) != threads.end())
      continue;
    if (threads.size() - from >= Limits::threads) too_ambiguous("readings");
    threads.push_back(t);
  }
  entered_.resize(base);
}

Automaton::Outcome Automaton::read(std::vector<Thread>& threads, size_t begin, size_t end, uint8_t byte) {
  Outcome outcome;
  for (size_t i = begin; i < end; ++i) {
    const Thread thread = threads[i];
    const int32_t next = step(thread.state, byte);
    if (next == kDead) continue;
    const Thread moved{static_cast<uint32_t>(next), thread.stack};
    if (!simple(moved.state)) {
      enter(moved, threads, end, outcome);
    } else if (std::find(threads.begin() + static_cast<ptrdiff_t>(end), threads.end(), moved) ==
               threads.end()) {
      threads.push_back(moved);
    }
  }
  return outcome;
}

}  // namespace filigree::grammar
