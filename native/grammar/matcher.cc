#include <algorithm>

#include "base/status.h"
#include "grammar/grammar.h"
#include "grammar/token_bytes.h"

namespace filigree::grammar {

Matcher::Matcher(std::shared_ptr<Grammar> grammar, bool continuation)
    : grammar_(std::move(grammar)),
      at_start_(grammar_->vocabulary().strips_leading_space() && !continuation) {
  const std::lock_guard lock(grammar_->mutex_);
  Automaton& automaton = grammar_->automaton_;
  Automaton::Outcome outcome;
  automaton.enter({automaton.start(), Automaton::kRoot}, threads_, 0, outcome);
  complete_ = outcome.complete;
}

const TokenMask& Matcher::mask() {
  if (mask_) return *mask_;
  if (ended_) {
    mask_ = std::make_shared<TokenMask>(grammar_->vocabulary().words(), 0);
    return *mask_;
  }
  mask_ = grammar_->mask(threads_, complete_);
  if (!at_start_) return *mask_;
  // The first space is dropped from the text: tokens that begin with it are those of the text behind it.
  auto start = std::make_shared<TokenMask>(*mask_);
  const Vocabulary& vocabulary = grammar_->vocabulary();
  const TokenTrie& trie = vocabulary.all();
  const std::lock_guard lock(grammar_->mutex_);
  for (uint32_t node = 1; node < trie.size(); node = trie.nodes[node].end) {
    if (trie.nodes[node].byte != ' ') continue;
    for (uint32_t t = trie.nodes[node].first_token; t < trie.nodes[trie.nodes[node].end].first_token; ++t) {
      (*start)[trie.tokens[t] / 64] &= ~(uint64_t{1} << (trie.tokens[t] % 64));
    }
    for (uint32_t t = trie.nodes[node].first_token; t < trie.nodes[node + 1].first_token; ++t) {
      (*start)[trie.tokens[t] / 64] |= uint64_t{1} << (trie.tokens[t] % 64);
    }
    grammar_->walk_.begin_mask();
    grammar_->walk_.run(trie, node, threads_, *start, nullptr);
  }
  mask_ = std::move(start);
  return *mask_;
}

bool Matcher::read(uint8_t byte) {
  if (at_start_) {
    at_start_ = false;
    if (byte == ' ') return true;
  }
  next_.assign(threads_.begin(), threads_.end());
  const size_t count = next_.size();
  const Automaton::Outcome outcome = grammar_->automaton_.read(next_, 0, count, byte);
  if (next_.size() == count && !outcome.complete) return false;
  next_.erase(next_.begin(), next_.begin() + static_cast<ptrdiff_t>(count));
  threads_.swap(next_);
  complete_ = outcome.complete;
  return true;
}

bool Matcher::is_end(int32_t token) const {
  const auto& ends = grammar_->vocabulary().ends();
  return complete_ && std::find(ends.begin(), ends.end(), token) != ends.end();
}

bool Matcher::accept(int32_t token) {
  const Vocabulary& vocabulary = grammar_->vocabulary();
  if (ended_ || token < 0 || static_cast<size_t>(token) >= vocabulary.size()) return false;
  if (is_end(token)) {
    ended_ = true;
    mask_.reset();
    return true;
  }
  const auto bytes = vocabulary.bytes(token);
  if (bytes.empty()) return false;
  const std::vector<Thread> before = threads_;
  const bool complete = complete_, at_start = at_start_;
  const std::lock_guard lock(grammar_->mutex_);
  for (const uint8_t byte : bytes) {
    if (read(byte)) continue;
    threads_ = before;
    complete_ = complete;
    at_start_ = at_start;
    return false;
  }
  mask_.reset();
  return true;
}

bool Matcher::probe(int32_t token) {
  if (is_end(token)) return !ended_;
  const std::vector<Thread> before = threads_;
  const bool complete = complete_, at_start = at_start_;
  std::shared_ptr<const TokenMask> mask = mask_;
  const bool accepted = accept(token);
  threads_ = before;
  complete_ = complete;
  at_start_ = at_start;
  mask_ = std::move(mask);
  return accepted;
}

// The one byte that may follow, or -1.
int32_t Matcher::only_byte() {
  if (complete_ || at_start_) return -1;
  int32_t only = -1;
  for (const Thread thread : threads_) {
    for (int32_t byte = 0; byte < 256; ++byte) {
      if (byte == only ||
          grammar_->automaton_.step(thread.state, static_cast<uint8_t>(byte)) == Automaton::kDead) {
        continue;
      }
      if (only >= 0) return -1;
      only = byte;
    }
  }
  return only;
}

void Matcher::forced(size_t most, std::vector<int32_t>& tokens) {
  tokens.clear();
  const TokenTrie& trie = grammar_->vocabulary().all();
  while (tokens.size() < most && !ended_) {
    // Text that must follow; a longer token than it would be chosen by the model.
    const std::vector<Thread> before = threads_;
    const bool complete = complete_;
    int32_t best = -1;
    {
      const std::lock_guard lock(grammar_->mutex_);
      uint32_t node = 0;
      while (true) {
        const int32_t byte = only_byte();
        if (byte < 0) {
          // Where the trie goes on behind the forced text, a longer token may be what the model wants.
          if (node != 0 && trie.has_children(node)) best = -1;
          break;
        }
        uint32_t child = node + 1;
        while (child < trie.nodes[node].end && trie.nodes[child].byte != byte) child = trie.nodes[child].end;
        if (child >= trie.nodes[node].end || !read(static_cast<uint8_t>(byte))) break;
        node = child;
        if (trie.nodes[node].first_token < trie.nodes[node + 1].first_token) {
          best = static_cast<int32_t>(trie.tokens[trie.nodes[node].first_token]);
        }
      }
      threads_ = before;
      complete_ = complete;
    }
    if (best < 0 || !accept(best)) return;
    tokens.push_back(best);
  }
}

}  // namespace filigree::grammar
