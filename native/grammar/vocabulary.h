#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace filigree::grammar {

// Token ids as bits, 64 to a word, as the sampler takes them.
using TokenMask = std::vector<uint64_t>;

class Vocabulary;

// Tokens by their bytes, in preorder: a walk goes forward through memory, and leaves out a subtree by one jump. A node lies in
// one line of the cache, since a walk reads all of it and jumps most of the time.
struct TokenTrie {
  struct Node {
    uint32_t end;          // first node behind the subtree
    uint32_t first_token;  // into tokens: those that end at the node, up to the next node's
    uint64_t below;        // groups of the bytes below the node (byte_groups.h)
    uint8_t byte, depth;
    uint8_t height;  // levels below the node
  };
  std::vector<Node> nodes;  // node 0 is the root; one more behind the last, for its tokens
  std::vector<uint32_t> tokens;
  uint32_t deepest = 0;
  // The root's children by their byte, 0 where there is none: they lie far apart, and most constraints allow few of them.
  std::array<uint32_t, 256> first{};

  size_t size() const { return nodes.size() - 1; }
  bool has_children(uint32_t node) const { return nodes[node].end > node + 1; }
};

// Tokens of whole characters of one kind and nothing else. Where an automaton takes any n of those characters and no more, the
// tokens of up to n are a mask known beforehand; only the others need a walk.
class TokenClass {
 public:
  // plain: what a JSON string may hold unescaped, most of a vocabulary. letters: of ASCII, most of what is left where not every
  // mark may stand (an e-mail address, a host, a path of a URL).
  enum class Kind { plain, letters };

  // `order`: tokens sorted by their bytes.
  TokenClass(const Vocabulary& vocabulary, const std::vector<uint32_t>& order, Kind kind);

  Kind kind() const { return kind_; }
  const TokenTrie& others() const { return others_; }
  uint32_t longest() const { return static_cast<uint32_t>(up_to_.size() - 1); }
  // Tokens of at most so many characters.
  const TokenMask& up_to(uint32_t characters) const {
    return up_to_[characters < longest() ? characters : longest()];
  }

 private:
  Kind kind_;
  TokenTrie others_;
  std::vector<TokenMask> up_to_;
};

// A tokenizer's tokens as bytes, shared by all constraints on a model.
class Vocabulary {
 public:
  // bytes of token i: bytes[offsets[i], offsets[i + 1]). Tokens without bytes, longer than 250, or with bytes that UTF-8 never
  // has are never allowed. `control` tokens only where a constraint names them, `ends` only where its text is complete.
  Vocabulary(std::span<const uint8_t> bytes, std::span<const uint32_t> offsets,
             std::span<const int32_t> control, std::span<const int32_t> ends, bool strips_leading_space);

  size_t size() const { return size_; }
  size_t words() const { return (size_ + 63) / 64; }
  const TokenTrie& all() const { return all_; }
  const TokenClass& plain() const { return *plain_; }
  const TokenClass& letters() const { return *letters_; }
  const std::vector<int32_t>& ends() const { return ends_; }
  // The decoder drops a space at the very start of a text.
  bool strips_leading_space() const { return strips_leading_space_; }
  std::span<const uint8_t> bytes(int32_t token) const {
    const size_t i = static_cast<size_t>(token);
    return std::span<const uint8_t>(bytes_).subspan(offsets_[i], offsets_[i + 1] - offsets_[i]);
  }

 private:
  size_t size_;
  std::vector<uint8_t> bytes_;     // as the automaton reads them
  std::vector<uint32_t> offsets_;  // [size + 1]
  std::vector<int32_t> ends_;
  bool strips_leading_space_;
  TokenTrie all_;
  std::unique_ptr<const TokenClass> plain_, letters_;
};

// Characters that a JSON string holds as they are.
inline bool is_plain_ascii(uint8_t byte) {
  return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

}  // namespace filigree::grammar
