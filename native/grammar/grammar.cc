#include "grammar/grammar.h"

#include <algorithm>
#include <optional>

#include "grammar/program.h"

namespace filigree::grammar {
namespace {

// Results of plain_run beside a number of characters.
constexpr int32_t kEndless = 1 << 20, kUneven = -1;

void set(TokenMask& mask, uint32_t token) { mask[token / 64] |= uint64_t{1} << (token % 64); }

}  // namespace

size_t Grammar::KeyHash::operator()(const std::vector<uint64_t>& key) const {
  uint64_t hash = 1469598103934665603u;
  for (const uint64_t part : key) hash = (hash ^ part ^ (part >> 31)) * 1099511628211u;
  return static_cast<size_t>(hash ^ (hash >> 29));
}

Grammar::Grammar(std::shared_ptr<const Vocabulary> vocabulary, std::span<const int32_t> program)
    : vocabulary_(std::move(vocabulary)), automaton_(compile(program)), walk_(automaton_) {}

Grammar::Statistics Grammar::statistics() const {
  const std::lock_guard lock(mutex_);
  return {automaton_.state_count(), automaton_.stack_count(), state_masks_.size() + masks_.size()};
}

// How many plain characters a state takes, if after each of them it stands in one state again whichever they were: then every
// plain token of up to so many is allowed, and none that is longer. kUneven where it is not so simple.
int32_t Grammar::plain_run(uint32_t state, bool root) {
  const auto key = [&](uint32_t s) { return uint64_t{s} << 1 | (root ? 1 : 0); };
  const auto longest = static_cast<size_t>(vocabulary_->longest_plain());
  const size_t most = 4 * longest + 64;
  std::vector<uint32_t> path;
  int32_t tail = kUneven;
  for (uint32_t here = state;;) {
    if (const auto known = runs_.find(key(here)); known != runs_.end()) {
      tail = known->second;
      break;
    }
    if (std::find(path.begin(), path.end(), here) != path.end()) {
      tail = kEndless;
      break;
    }
    if (path.size() ==
        most) {  // farther than any token from all but the last of the path, which stay unknown
      path.resize(most - longest);
      tail = kEndless;
      break;
    }
    path.push_back(here);
    // The state after any plain character, as long as all agree.
    std::optional<int32_t> after;
    bool even = true;
    const auto meet = [&](int32_t next) { even = even && next == after.value_or(next), after = next; };
    // Steps over bytes low .. high, then over `rest` continuation bytes.
    const auto follow = [&](auto&& self, uint32_t s, unsigned low, unsigned high, int rest) -> void {
      std::optional<int32_t> previous;
      for (unsigned byte = low; byte <= high && even; ++byte) {
        const int32_t next = automaton_.step(s, static_cast<uint8_t>(byte));
        if (next == previous) continue;
        previous = next;
        if (rest == 0 || next == Automaton::kDead) {
          meet(next);
        } else {
          self(self, static_cast<uint32_t>(next), 0x80, 0xbf, rest - 1);
        }
      }
    };
    const auto usable = [&](uint32_t s) {
      return automaton_.calls(s).empty() && (root || !automaton_.accepts(s));
    };
    for (unsigned byte = 0x20; byte < 0x80; ++byte) {
      if (is_plain_ascii(static_cast<uint8_t>(byte))) meet(automaton_.step(here, static_cast<uint8_t>(byte)));
    }
    const auto lead = [&](unsigned low, unsigned high, unsigned second_low, unsigned second_high, int rest) {
      std::optional<int32_t> previous;
      for (unsigned byte = low; byte <= high && even; ++byte) {
        const int32_t next = automaton_.step(here, static_cast<uint8_t>(byte));
        if (next == previous) continue;
        previous = next;
        if (next == Automaton::kDead) {
          meet(next);
        } else {
          follow(follow, static_cast<uint32_t>(next), second_low, second_high, rest);
        }
      }
    };
    lead(0xc2, 0xdf, 0x80, 0xbf, 0);
    lead(0xe0, 0xe0, 0xa0, 0xbf, 1);
    lead(0xe1, 0xec, 0x80, 0xbf, 1);
    lead(0xed, 0xed, 0x80, 0x9f, 1);
    lead(0xee, 0xef, 0x80, 0xbf, 1);
    lead(0xf0, 0xf0, 0x90, 0xbf, 2);
    lead(0xf1, 0xf3, 0x80, 0xbf, 2);
    lead(0xf4, 0xf4, 0x80, 0x8f, 2);
    if (even && *after != Automaton::kDead && usable(static_cast<uint32_t>(*after))) {
      here = static_cast<uint32_t>(*after);
      continue;
    }
    tail = even && *after == Automaton::kDead ? 0 : kUneven;
    runs_[key(here)] = tail;
    path.pop_back();
    break;
  }
  for (size_t i = path.size(); i-- > 0;) {
    if (tail != kUneven) tail = std::min(tail + 1, kEndless);
    runs_[key(path[i])] = tail;
  }
  return runs_[key(state)];
}

std::shared_ptr<const StateMask> Grammar::state_mask(uint32_t state, bool root) {
  const uint64_t key = uint64_t{state} << 1 | (root ? 1 : 0);
  if (const auto known = state_masks_.find(key); known != state_masks_.end()) return known->second;
  auto made = std::make_shared<StateMask>();
  const int32_t run = plain_run(state, root);
  made->cut = run > 0;
  if (made->cut) {
    made->tokens = vocabulary_->plain_up_to(static_cast<uint32_t>(run));
  } else {
    made->tokens.assign(vocabulary_->words(), 0);
  }
  // Only what follows a byte: where the rule may end here, its callers are threads of their own.
  const Thread thread{state, root ? Automaton::kRoot : Automaton::kUnknown};
  walk_.run(trie(made->cut), 0, {&thread, 1}, made->tokens, &made->leaves);
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
  for (const uint32_t leaf : own->leaves) walk_.run(trie(own->cut), leaf, callers, mask, nullptr);
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
