#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace filigree::grammar {

// The rules of a grammar as nondeterministic automata over bytes, all in one graph. A call edge reads whatever the rule it
// names derives. Recursion goes through calls alone, so every rule's own part is finite.

struct Edge {
  enum class Kind : uint8_t { epsilon, bytes, call };
  Kind kind;
  uint8_t low, high;  // bytes: both ends belong to the range
  uint32_t rule;      // call
  uint32_t to;
  int32_t next;  // next edge of the same node, -1 = none
};

struct Rule {
  uint32_t start, accept;
};

class Nfa {
 public:
  uint32_t add_node() {
    first_.push_back(-1);
    return static_cast<uint32_t>(first_.size() - 1);
  }
  void epsilon(uint32_t from, uint32_t to) { add(from, {Edge::Kind::epsilon, 0, 0, 0, to, -1}); }
  void bytes(uint32_t from, uint8_t low, uint8_t high, uint32_t to) {
    add(from, {Edge::Kind::bytes, low, high, 0, to, -1});
  }
  void call(uint32_t from, uint32_t rule, uint32_t to) { add(from, {Edge::Kind::call, 0, 0, rule, to, -1}); }

  size_t size() const { return first_.size(); }
  size_t edge_count() const { return edges_.size(); }
  int32_t first(uint32_t node) const { return first_[node]; }
  const Edge& edge(int32_t index) const { return edges_[static_cast<size_t>(index)]; }

  template <class F>
  void each(uint32_t node, F&& f) const {
    for (int32_t e = first_[node]; e >= 0; e = edges_[static_cast<size_t>(e)].next) {
      f(edges_[static_cast<size_t>(e)]);
    }
  }
  // Keeps of a node's edges those that `keep` accepts.
  template <class F>
  void filter(uint32_t node, F&& keep) {
    int32_t* link = &first_[node];
    while (*link >= 0) {
      Edge& edge = edges_[static_cast<size_t>(*link)];
      if (keep(edge)) {
        link = &edge.next;
      } else {
        *link = edge.next;
      }
    }
  }

 private:
  void add(uint32_t from, Edge edge) {
    edge.next = first_[from];
    edges_.push_back(edge);
    first_[from] = static_cast<int32_t>(edges_.size() - 1);
  }

  std::vector<int32_t> first_;
  std::vector<Edge> edges_;
};

// A grammar, checked: every node can reach the end of its rule, every rule that is called derives some text, and no rule
// calls itself before it has read a byte.
struct RuleSet {
  Nfa nfa;
  std::vector<Rule> rules;
  uint32_t start = 0;  // rule
};

// Reads a program (program.h). Throws invalid_argument that says what is too large, malformed or empty.
RuleSet compile(std::span<const int32_t> program);

}  // namespace filigree::grammar
