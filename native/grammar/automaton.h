#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "grammar/nfa.h"

namespace filigree::grammar {

// A pushdown automaton over bytes, made deterministic rule by rule and only where a text leads.
//
// A *state* is a set of nodes of one rule. A *stack* is a list of states to return to, kept once each as (return state, rest).
// A *thread* is a state and a stack: one way to read the text so far; what a text may go on with is what any of its threads
// allows. A rule's last call replaces its own place on the stack, so that lists written by recursion do not grow it.
//
// States and stacks are made on first use and kept: in a steady state a step looks up one table row per thread. Not
// thread-safe; the grammar that owns it holds a lock.
class Automaton {
 public:
  struct Thread {
    uint32_t state, stack;
    friend bool operator==(const Thread&, const Thread&) = default;
  };
  struct Call {
    uint32_t start;   // state to enter
    uint32_t target;  // state to return to
  };
  // What reading one byte, or entering a state, gives.
  struct Outcome {
    bool complete = false;  // the whole text may end here
    bool left = false;      // a rule ended whose caller is unknown
  };

  static constexpr uint32_t kRoot = 0;     // stack: nothing to return to; the text is complete
  static constexpr uint32_t kUnknown = 1;  // stack: whoever called is left open
  static constexpr int32_t kDead = -1;

  explicit Automaton(RuleSet rules);

  uint32_t start() const { return start_; }
  // The state after a byte, or kDead.
  int32_t step(uint32_t state, uint8_t byte) { return step_class(state, class_of_[byte]); }
  // Bytes that no edge of the grammar tells apart are of one class, in 0 .. class_count().
  uint8_t class_of(uint8_t byte) const { return class_of_[byte]; }
  size_t class_count() const { return classes_; }
  int32_t step_class(uint32_t state, uint8_t byte_class) {
    const int32_t next = next_[state * classes_ + byte_class];
    if (next != kUnmade) return next;
    make_row(state);
    return next_[state * classes_ + byte_class];
  }
  // Neither the end of a rule nor a call: entering it means nothing but being there.
  bool simple(uint32_t state) const { return simple_[state] != 0; }
  bool accepts(uint32_t state) const { return states_[state].accept; }
  const std::vector<Call>& calls(uint32_t state);
  // The end of a rule and nothing else.
  bool final_only(uint32_t state) const { return !states_[state].has_bytes && !states_[state].has_calls; }

  // Appends a thread and all that it enters and returns to without reading, to threads[from ..), each once.
  void enter(Thread thread, std::vector<Thread>& threads, size_t from, Outcome& outcome);
  // Appends what threads[begin, end) become after a byte.
  Outcome read(std::vector<Thread>& threads, size_t begin, size_t end, uint8_t byte);

  uint32_t return_state(uint32_t stack) const { return stacks_[stack].state; }
  uint32_t rest_of(uint32_t stack) const { return stacks_[stack].rest; }
  uint32_t depth_of(uint32_t stack) const { return stacks_[stack].depth; }

  size_t state_count() const { return states_.size(); }
  size_t stack_count() const { return stacks_.size(); }

 private:
  struct State {
    std::vector<uint32_t> nodes;  // ascending; only those with byte edges, call edges, or the rule's end
    bool accept = false, has_bytes = false, has_calls = false, calls_made = false;
    uint32_t accept_node = 0;
    std::vector<Call> calls;
  };
  struct Stack {
    uint32_t state, rest, depth;
  };
  static constexpr int32_t kUnmade = -2;

  void make_row(uint32_t state);
  // `nodes` is used up.
  uint32_t intern(std::vector<uint32_t>& nodes, uint32_t accept_node);
  uint32_t rule_start(uint32_t rule);
  uint32_t push(uint32_t state, uint32_t rest);

  RuleSet rules_;
  std::array<uint8_t, 256> class_of_{};
  size_t classes_ = 0;
  std::vector<State> states_;
  std::vector<uint8_t> simple_;
  std::vector<int32_t> next_;  // [states][classes]
  std::vector<int32_t> rule_starts_;
  uint32_t start_ = 0;
  struct Hash {
    size_t operator()(const std::vector<uint32_t>& nodes) const;
  };
  std::unordered_map<std::vector<uint32_t>, uint32_t, Hash> ids_;
  std::vector<Stack> stacks_;
  std::unordered_map<uint64_t, uint32_t> stack_ids_;
  // Scratch of intern(), make_row() and enter().
  std::vector<uint32_t> stamp_;
  uint32_t round_ = 0;
  std::vector<uint32_t> set_, kept_;
  std::vector<std::pair<uint32_t, uint32_t>> reached_;  // part of the bytes, node
  std::vector<Thread> entered_;
};

}  // namespace filigree::grammar
