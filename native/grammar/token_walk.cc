#include "grammar/token_walk.h"

#include <algorithm>

#include "base/status.h"
#include "grammar/byte_groups.h"
#include "grammar/program.h"

namespace filigree::grammar {
namespace {

void set(TokenMask& mask, const TokenTrie& trie, uint32_t from, uint32_t to) {
  for (uint32_t t = trie.nodes[from].first_token; t < trie.nodes[to].first_token; ++t) {
    mask[trie.tokens[t] / 64] |= uint64_t{1} << (trie.tokens[t] % 64);
  }
}

}  // namespace

TokenWalk::TokenWalk(Automaton& automaton) : automaton_(automaton) {
  for (size_t group = 0; group < kByteGroups; ++group) {
    first_class_[group] = static_cast<uint16_t>(classes_.size());
    for (size_t byte = 0; byte < 256; ++byte) {
      if (kByteGroup[byte] != group) continue;
      ++bytes_[group];
      const uint8_t byte_class = automaton.class_of(static_cast<uint8_t>(byte));
      if (classes_.size() == first_class_[group] || classes_.back() != byte_class)
        classes_.push_back(byte_class);
    }
  }
  first_class_[kByteGroups] = static_cast<uint16_t>(classes_.size());
}

void TokenWalk::spend(size_t steps) {
  steps_ += steps;
  if (steps_ > Limits::mask_steps) {
    throw Error(ErrorCode::unsupported, "the constraint is too ambiguous to be computed in time");
  }
}

const TokenWalk::Alike& TokenWalk::alike(uint32_t state, bool root) {
  std::vector<Alike>& all = alike_[root];
  if (all.size() <= state) all.resize(automaton_.state_count());
  if (all[state].known) return all[state];
  // Of the states that groups lead to as a whole, the one with most bytes.
  std::array<int32_t, kByteGroups> next;
  for (size_t group = 0; group < kByteGroups; ++group) {
    int32_t to = automaton_.step_class(state, classes_[first_class_[group]]);
    for (size_t i = first_class_[group] + 1u; i < first_class_[group + 1] && to >= 0; ++i) {
      if (automaton_.step_class(state, classes_[i]) != to) to = Automaton::kDead;
    }
    next[group] = to;
  }
  Alike made{0, 0, true};
  uint64_t left = ~uint64_t{0};
  size_t most = 0;
  for (size_t i = 0; i < kByteGroups; ++i) {
    if (next[i] < 0 || (left >> i & 1) == 0) continue;
    uint64_t groups = 0;
    size_t count = 0;
    for (size_t j = i; j < kByteGroups; ++j) {
      if (next[j] != next[i]) continue;
      groups |= uint64_t{1} << j;
      count += bytes_[j];
    }
    left &= ~groups;
    if (count > most) most = count, made.groups = groups, made.next = static_cast<uint32_t>(next[i]);
  }
  // A rule that ends or calls another has more threads than one.
  if (most > 0 && !quiet(made.next, root)) made.groups = 0;
  if (all.size() <= state) all.resize(automaton_.state_count());
  return all[state] = made;
}

const TokenWalk::Reach& TokenWalk::reach(uint32_t state, bool root) {
  std::vector<int32_t>& known = reach_of_[root];
  if (known.size() <= state) known.resize(automaton_.state_count(), -1);
  if (known[state] >= 0) return reaches_[static_cast<size_t>(known[state])];
  Reach made{};
  uint64_t groups = ~uint64_t{0};
  uint32_t here = state;
  for (size_t far = 0; far < kFar && groups != 0; ++far) {
    const Alike step = alike(here, root);
    made[far] = groups &= step.groups;
    here = step.next;
  }
  reach_of_[root][state] = static_cast<int32_t>(reaches_.size());
  reaches_.push_back(made);
  return reaches_.back();
}

void TokenWalk::run(const TokenTrie& trie, uint32_t node, std::span<const Thread> threads, TokenMask& mask,
                    std::vector<uint32_t>* leaves) {
  threads_.assign(threads.begin(), threads.end());
  levels_.resize(trie.deepest + 2);
  states_.resize(trie.deepest + 2);
  const Goal goal{trie, mask, leaves};
  walk(goal, node, 0);
}

// Below `node`, which one thread has read: no list of threads is needed.
void TokenWalk::walk_one(const Goal& goal, uint32_t node, Thread thread) {
  const TokenTrie& trie = goal.trie;
  const bool root = thread.stack == Automaton::kRoot;
  const uint32_t end = trie.nodes[node].end;
  if (end == node + 1) return;
  if (takes_subtree(trie, node, thread.state, root)) {
    spend(1);
    return set(goal.mask, trie, node + 1, end);
  }
  states_[trie.nodes[node].depth] = thread.state;
  if (node != 0) return walk_nodes(goal, node + 1, end, thread.stack);
  for (size_t byte = 0; byte < trie.first.size(); ++byte) {
    const uint32_t child = trie.first[byte];
    if (child == 0 || automaton_.step(thread.state, static_cast<uint8_t>(byte)) == Automaton::kDead) continue;
    walk_nodes(goal, child, trie.nodes[child].end, thread.stack);
  }
}

// Siblings and all that is below them; states_ has what one thread was in above them.
void TokenWalk::walk_nodes(const Goal& goal, uint32_t first_node, uint32_t end, uint32_t stack) {
  const TokenTrie& trie = goal.trie;
  const bool root = stack == Automaton::kRoot;
  uint32_t* const states = states_.data();
  size_t steps = 0;
  for (uint32_t i = first_node; i < end;) {
    const size_t depth = trie.nodes[i].depth;
    ++steps;
    const int32_t to = automaton_.step(states[depth - 1], trie.nodes[i].byte);
    if (to == Automaton::kDead) {
      i = trie.nodes[i].end;
      continue;
    }
    const auto state = static_cast<uint32_t>(to);
    if (quiet(state, root)) {
      const uint32_t behind = trie.nodes[i].end;
      if (behind > i + 1 && !takes_subtree(trie, i, state, root)) {
        set(goal.mask, trie, i, i + 1);
        states[depth] = state;
        ++i;
      } else {
        set(goal.mask, trie, i, behind);
        i = behind;
      }
      continue;
    }
    const size_t first = threads_.size();
    Automaton::Outcome outcome;
    automaton_.enter({state, stack}, threads_, first, outcome);
    const bool alive = threads_.size() > first;
    if (alive || outcome.complete || outcome.left) set(goal.mask, trie, i, i + 1);
    if (outcome.left && goal.leaves != nullptr && trie.has_children(i)) goal.leaves->push_back(i);
    if (alive && trie.has_children(i)) walk(goal, i, first);
    threads_.resize(first);
    i = trie.nodes[i].end;
  }
  spend(steps);
}

// Below `node`, whose threads are threads_[first ..).
void TokenWalk::walk(const Goal& goal, uint32_t node, size_t first) {
  if (threads_.size() - first == 1) return walk_one(goal, node, threads_[first]);
  const TokenTrie& trie = goal.trie;
  const size_t base = trie.nodes[node].depth;
  levels_[base] = threads_.size();
  const uint32_t end = trie.nodes[node].end;
  for (uint32_t i = node + 1; i < end;) {
    const size_t depth = trie.nodes[i].depth;
    const size_t begin = depth == base + 1 ? first : levels_[depth - 2], above = levels_[depth - 1];
    threads_.resize(above);
    spend(1 + above - begin);
    const Automaton::Outcome outcome = automaton_.read(threads_, begin, above, trie.nodes[i].byte);
    const size_t alive = threads_.size() - above;
    if (alive > 0 || outcome.complete || outcome.left) set(goal.mask, trie, i, i + 1);
    if (outcome.left && goal.leaves != nullptr && trie.has_children(i)) goal.leaves->push_back(i);
    if (alive <= 1) {
      if (alive == 1) walk_one(goal, i, threads_.back());
      i = trie.nodes[i].end;
      continue;
    }
    levels_[depth] = threads_.size();
    ++i;
  }
}

}  // namespace filigree::grammar
