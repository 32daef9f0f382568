#include "grammar/vocabulary.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "base/status.h"
#include "grammar/byte_groups.h"
#include "grammar/token_bytes.h"

namespace filigree::grammar {
namespace {

constexpr size_t kLongestToken = 250;  // depth fits a byte

// Characters of a token that holds nothing but whole plain ones; 0 otherwise.
uint32_t plain_characters(std::span<const uint8_t> bytes) {
  uint32_t count = 0;
  for (size_t i = 0; i < bytes.size(); ++count) {
    const uint8_t lead = bytes[i];
    if (lead < 0x80) {
      if (!is_plain_ascii(lead)) return 0;
      ++i;
      continue;
    }
    const size_t length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (length == 0 || i + length > bytes.size()) return 0;
    for (size_t j = 1; j < length; ++j) {
      if ((bytes[i + j] & 0xc0) != 0x80) return 0;
    }
    const uint8_t second = bytes[i + 1];
    if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) ||
        (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) {
      return 0;
    }
    i += length;
  }
  return count;
}

// Letters of a token that holds nothing but letters of ASCII; 0 otherwise.
uint32_t letters(std::span<const uint8_t> bytes) {
  const auto is_letter = [](uint8_t byte) { return (byte | 0x20) >= 'a' && (byte | 0x20) <= 'z'; };
  return std::all_of(bytes.begin(), bytes.end(), is_letter) ? static_cast<uint32_t>(bytes.size()) : 0;
}

// `order`: tokens sorted by their bytes.
TokenTrie make_trie(const Vocabulary& vocabulary, const std::vector<uint32_t>& order) {
  TokenTrie trie;
  const auto size = [&] { return static_cast<uint32_t>(trie.nodes.size()); };
  std::vector<uint32_t> path{0};
  trie.nodes.push_back({});
  std::span<const uint8_t> previous;
  // Closes the nodes of the path that are deeper: each adds what it is and what is below it to the one above.
  const auto close = [&](size_t depth) {
    while (path.size() > depth + 1) {
      TokenTrie::Node& node = trie.nodes[path.back()];
      node.end = size();
      path.pop_back();
      TokenTrie::Node& above = trie.nodes[path.back()];
      above.below |= node.below | uint64_t{1} << kByteGroup[node.byte];
      above.height = std::max(above.height, static_cast<uint8_t>(node.height + 1));
    }
  };
  for (const uint32_t token : order) {
    const std::span<const uint8_t> bytes = vocabulary.bytes(static_cast<int32_t>(token));
    size_t shared = 0;
    while (shared < previous.size() && shared < bytes.size() && previous[shared] == bytes[shared]) ++shared;
    close(shared);
    for (size_t i = shared; i < bytes.size(); ++i) {
      path.push_back(size());
      TokenTrie::Node node{};
      node.first_token = static_cast<uint32_t>(trie.tokens.size());
      node.byte = bytes[i];
      node.depth = static_cast<uint8_t>(i + 1);
      if (i == 0) trie.first[bytes[i]] = size();
      trie.nodes.push_back(node);
    }
    trie.deepest = std::max(trie.deepest, static_cast<uint32_t>(bytes.size()));
    trie.tokens.push_back(token);
    previous = bytes;
  }
  close(0);
  trie.nodes[0].end = size();
  TokenTrie::Node behind{};
  behind.first_token = static_cast<uint32_t>(trie.tokens.size());
  trie.nodes.push_back(behind);
  return trie;
}

}  // namespace

Vocabulary::Vocabulary(std::span<const uint8_t> bytes, std::span<const uint32_t> offsets,
                       std::span<const int32_t> control, std::span<const int32_t> ends,
                       bool strips_leading_space)
    : size_(offsets.empty() ? 0 : offsets.size() - 1),
      ends_(ends.begin(), ends.end()),
      strips_leading_space_(strips_leading_space) {
  if (size_ == 0 || size_ >= (size_t{1} << 24)) {
    throw Error(ErrorCode::invalid_argument, "a vocabulary of " + std::to_string(size_) + " tokens");
  }
  std::vector<bool> is_control(size_, false);
  for (const std::span<const int32_t> ids : {control, ends}) {
    for (const int32_t id : ids) {
      if (id < 0 || static_cast<size_t>(id) >= size_) {
        throw Error(ErrorCode::invalid_argument,
                    "control token " + std::to_string(id) + " is outside the vocabulary");
      }
      is_control[static_cast<size_t>(id)] = true;
    }
  }
  offsets_.push_back(0);
  for (size_t i = 0; i < size_; ++i) {
    if (offsets[i] > offsets[i + 1] || offsets[i + 1] > bytes.size()) {
      throw Error(ErrorCode::invalid_argument,
                  "the bytes of token " + std::to_string(i) + " are out of range");
    }
    const auto token = bytes.subspan(offsets[i], offsets[i + 1] - offsets[i]);
    if (is_control[i]) {
      const auto name = control_token_bytes(static_cast<uint32_t>(i));
      bytes_.insert(bytes_.end(), name.begin(), name.end());
    } else if (token.size() <= kLongestToken &&
               std::find(token.begin(), token.end(), kControlByte) == token.end()) {
      bytes_.insert(bytes_.end(), token.begin(), token.end());
    }
    offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
  }

  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < size_; ++i) {
    if (offsets_[i] < offsets_[i + 1]) order.push_back(i);
  }
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    const auto x = this->bytes(static_cast<int32_t>(a)), y = this->bytes(static_cast<int32_t>(b));
    return std::lexicographical_compare(x.begin(), x.end(), y.begin(), y.end());
  });
  all_ = make_trie(*this, order);

  plain_ = std::make_unique<TokenClass>(*this, order, TokenClass::Kind::plain);
  letters_ = std::make_unique<TokenClass>(*this, order, TokenClass::Kind::letters);
}

TokenClass::TokenClass(const Vocabulary& vocabulary, const std::vector<uint32_t>& order, Kind kind)
    : kind_(kind) {
  std::vector<uint32_t> others;
  std::vector<std::vector<uint32_t>> by_length(1);
  for (const uint32_t token : order) {
    const auto bytes = vocabulary.bytes(static_cast<int32_t>(token));
    const uint32_t count = kind == Kind::plain ? plain_characters(bytes) : letters(bytes);
    if (count == 0) {
      others.push_back(token);
      continue;
    }
    if (by_length.size() <= count) by_length.resize(count + 1);
    by_length[count].push_back(token);
  }
  up_to_.emplace_back(vocabulary.words(), 0);
  for (size_t count = 1; count < by_length.size(); ++count) {
    up_to_.push_back(up_to_.back());
    for (const uint32_t token : by_length[count]) up_to_.back()[token / 64] |= uint64_t{1} << (token % 64);
  }
  others_ = make_trie(vocabulary, others);
}

}  // namespace filigree::grammar
