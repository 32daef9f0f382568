#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/character_runs.h"
#include "grammar/token_walk.h"
#include "grammar/vocabulary.h"

namespace filigree::grammar {

// What one state allows, whatever called its rule: computed once, by a walk through the vocabulary's trie.
struct StateMask {
  TokenMask tokens;              // that end inside the rule, or exactly at its end
  const TokenTrie* trie;         // that was walked: without the tokens of a class that are known as a whole
  std::vector<uint32_t> leaves;  // nodes of the trie walked at which the rule ended with bytes left
};

// A constraint compiled for a vocabulary: an automaton and the masks found so far. Shared by every request that asks for the
// same; a lock makes it safe to.
//
// The mask of a position is the union over its threads of what their states allow by themselves, and of what may follow in
// the callers where a token reaches beyond the rule. The first is cached by state, the whole by set of threads.
class Grammar {
 public:
  Grammar(std::shared_ptr<const Vocabulary> vocabulary, std::span<const int32_t> program);

  const Vocabulary& vocabulary() const { return *vocabulary_; }
  struct Statistics {
    size_t states, stacks, masks;
  };
  Statistics statistics() const;

 private:
  friend class Matcher;
  using Thread = Automaton::Thread;

  // Whole masks and masks of states kept at most: at 128,000 tokens, 24 MB.
  static constexpr size_t kMasks = 512, kStateMasks = 1024;

  std::shared_ptr<const TokenMask> mask(std::span<const Thread> threads, bool complete);
  std::shared_ptr<const StateMask> state_mask(uint32_t state, bool root);
  void add_thread(Thread thread, TokenMask& mask);

  struct KeyHash {
    size_t operator()(const std::vector<uint64_t>& key) const;
  };

  std::shared_ptr<const Vocabulary> vocabulary_;
  mutable std::mutex mutex_;
  Automaton automaton_;
  std::array<CharacterRuns, 2> runs_;                                           // of the larger class first
  std::unordered_map<uint64_t, std::shared_ptr<const StateMask>> state_masks_;  // state, root
  std::unordered_map<std::vector<uint64_t>, std::shared_ptr<const TokenMask>, KeyHash> masks_;
  TokenWalk walk_;
};

// One text under a constraint: where its reading stands.
class Matcher {
 public:
  // `continuation`: the text goes on behind another, so nothing is dropped from its start.
  explicit Matcher(std::shared_ptr<Grammar> grammar, bool continuation = false);

  // Tokens that may come next, ends of the text included where it is complete. Computed once per position.
  const TokenMask& mask();
  // Reads a token. False, and nothing has changed, if it is not allowed.
  bool accept(int32_t token);
  // Whether accept() would; nothing changes. Slower for many tokens than one mask().
  bool probe(int32_t token);
  // The text may end here.
  bool complete() const { return complete_; }
  // The text ends here: nothing may follow.
  bool exhausted() const { return complete_ && threads_.empty() && !at_start_; }
  bool ended() const { return ended_; }
  // Tokens whose text is the only way on, longest first: what may be appended without asking the model. Stops before a token
  // that a longer one could replace, at the end of the text, and after `most`.
  void forced(size_t most, std::vector<int32_t>& tokens);

  const Grammar& grammar() const { return *grammar_; }

 private:
  using Thread = Automaton::Thread;
  bool read(uint8_t byte);
  bool is_end(int32_t token) const;
  int32_t only_byte();

  std::shared_ptr<Grammar> grammar_;
  std::vector<Thread> threads_, next_;
  bool complete_ = false, ended_ = false;
  bool at_start_ = false;  // a leading space is not part of the text
  std::shared_ptr<const TokenMask> mask_;
};

}  // namespace filigree::grammar
