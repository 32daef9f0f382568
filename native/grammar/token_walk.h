#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/byte_groups.h"
#include "grammar/vocabulary.h"

namespace filigree::grammar {

// Finds the tokens that an automaton can read, by a walk through their trie in which every shared beginning is read once.
//
// A subtree whose bytes all lead from one state into one other, whichever they are, as far down as it goes, is taken whole:
// of letters in a word, or of anything in a string. That is most of the trie wherever much is allowed, so a walk costs about
// what it sets, not what it could visit.
class TokenWalk {
 public:
  using Thread = Automaton::Thread;

  explicit TokenWalk(Automaton& automaton);

  // Forgets the steps of walks before: Limits::mask_steps bounds those of one mask.
  void begin_mask() { steps_ = 0; }

  // Adds the tokens below `node` that `threads`, which have read its bytes, go on with; and to `leaves`, where given, the nodes
  // at which a rule whose caller is unknown ended with bytes left. Throws `unsupported` beyond the limit of steps.
  void run(const TokenTrie& trie, uint32_t node, std::span<const Thread> threads, TokenMask& mask,
           std::vector<uint32_t>* leaves);

 private:
  // Bytes that a state takes alike for the next 1, 2 .. kFar bytes.
  static constexpr size_t kFar = 16;
  using Reach = std::array<uint64_t, kFar>;
  struct Alike {
    uint64_t groups = 0;  // whose bytes all lead to `next`
    uint32_t next = 0;
    bool known = false;
  };

  // What a walk adds to, the same all the way down.
  struct Goal {
    const TokenTrie& trie;
    TokenMask& mask;
    std::vector<uint32_t>* leaves;
  };

  void walk(const Goal& goal, uint32_t node, size_t first);
  void walk_one(const Goal& goal, uint32_t node, Thread thread);
  void walk_nodes(const Goal& goal, uint32_t first_node, uint32_t end, uint32_t stack);
  bool quiet(uint32_t state, bool root) {
    return automaton_.simple(state) || (root && automaton_.calls(state).empty());
  }
  bool takes_subtree(const TokenTrie& trie, uint32_t node, uint32_t state, bool root) {
    const size_t height = trie.nodes[node].height;
    return height <= kFar && (trie.nodes[node].below & ~reach(state, root)[height - 1]) == 0;
  }
  const Reach& reach(uint32_t state, bool root);
  const Alike& alike(uint32_t state, bool root);
  void spend(size_t steps);

  Automaton& automaton_;
  // The automaton's classes of bytes by group, those of group g from first_class_[g] on; and the bytes of each group.
  std::vector<uint8_t> classes_;
  std::array<uint16_t, kByteGroups + 1> first_class_{};
  std::array<uint16_t, kByteGroups> bytes_{};
  std::vector<Thread> threads_;  // of a walk, level by level
  std::vector<size_t>
      levels_;  // by depth: where its threads end; they begin where those of the depth above end
  std::vector<uint32_t> states_;  // by depth, of a walk with one thread
  size_t steps_ = 0;
  // By state, and whether the rule's end is the text's.
  std::array<std::vector<Alike>, 2> alike_;
  std::array<std::vector<int32_t>, 2> reach_of_;  // index into reaches_, -1 = not made
  std::vector<Reach> reaches_;
};

}  // namespace filigree::grammar
