#include "grammar/grammar.h"

#include <algorithm>

#include "grammar/program.h"

namespace filigree::grammar {
namespace {

void set(TokenMask& mask, uint32_t token) { mask[token / 64] |= uint64_t{1} << (token % 64); }

}  // namespace

size_t Grammar::KeyHash::operator()(const std::vector<uint64_t>& key) const {
  uint64_t hash = 1469598103934665603u;
  for (const uint64_t part : key) hash = (hash ^ part ^ (part >> 31)) * 1099511628211u;
  return static_cast<size_t>(hash ^ (hash >> 29));
}

Grammar::Grammar(std::shared_ptr<const Vocabulary> vocabulary, std::span<const int32_t> program)
    : vocabulary_(std::move(vocabulary)),
      automaton_(compile(program)),
      runs_{CharacterRuns(automaton_, vocabulary_->plain()),
            CharacterRuns(automaton_, vocabulary_->letters())},
      walk_(automaton_) {}

Grammar::Statistics Grammar::statistics() const {
  const std::lock_guard lock(mutex_);
  return {automaton_.state_count(), automaton_.stack_count(), state_masks_.size() + masks_.size()};
}

std::shared_ptr<const StateMask> Grammar::state_mask(uint32_t state, bool root) {
  const uint64_t key = uint64_t{state} << 1 | (root ? 1 : 0);
  if (const auto known = state_masks_.find(key); known != state_masks_.end()) return known->second;
  auto made = std::make_shared<StateMask>();
  made->trie = &vocabulary_->all();
  for (CharacterRuns& runs : runs_) {
    const int32_t run = runs.of(state, root);
    if (run <= 0) continue;
    made->tokens = runs.tokens().up_to(static_cast<uint32_t>(run));
    made->trie = &runs.tokens().others();
    break;
  }
  if (made->tokens.empty()) made->tokens.assign(vocabulary_->words(), 0);
  // Only what follows a byte: where the rule may end here, its callers are threads of their own.
  const Thread thread{state, root ? Automaton::kRoot : Automaton::kUnknown};
  walk_.run(*made->trie, 0, {&thread, 1}, made->tokens, &made->leaves);
  if (state_masks_.size() >= kStateMasks) state_masks_.clear();
  state_masks_.emplace(key, made);
  return made;
}

void Grammar::add_thread(Thread thread, TokenMask& mask) {
  const bool root = thread.stack == Automaton::kRoot;
  const std::shared_ptr<const StateMask> own = state_mask(thread.state, root);
  for (size_t i = 0; i < mask.size(); ++i) mask[i] |= own->tokens[i];
  if (root || own->leaves.empty()) return;
  std::vector<Thread> callers;
  Automaton::Outcome outcome;
  automaton_.enter({automaton_.return_state(thread.stack), automaton_.rest_of(thread.stack)}, callers, 0,
                   outcome);
  if (callers.empty()) return;
  for (const uint32_t leaf : own->leaves) walk_.run(*own->trie, leaf, callers, mask, nullptr);
}

std::shared_ptr<const TokenMask> Grammar::mask(std::span<const Thread> threads, bool complete) {
  const std::lock_guard lock(mutex_);
  std::vector<uint64_t> key;
  for (const Thread thread : threads) key.push_back(uint64_t{thread.state} << 32 | thread.stack);
  std::sort(key.begin(), key.end());
  key.push_back(complete ? 1 : 0);
  if (const auto known = masks_.find(key); known != masks_.end()) return known->second;

  walk_.begin_mask();
  auto made = std::make_shared<TokenMask>(vocabulary_->words(), 0);
  uint32_t deepest = 0;
  for (const Thread thread : threads) deepest = std::max(deepest, automaton_.depth_of(thread.stack));
  if (deepest + vocabulary_->all().deepest >= Limits::stack_depth) {
    // Near the limit of nesting, what a state allows depends on its depth.
    walk_.run(vocabulary_->all(), 0, threads, *made, nullptr);
  } else {
    for (const Thread thread : threads) add_thread(thread, *made);
  }
  if (complete) {
    for (const int32_t end : vocabulary_->ends()) set(*made, static_cast<uint32_t>(end));
  }
  if (masks_.size() >= kMasks) masks_.clear();
  masks_.emplace(std::move(key), made);
  return made;
}

}  // namespace filigree::grammar
