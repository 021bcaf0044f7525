// Which of many words begins here: a trie over bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Words and a number for each; words may be any bytes but none.
class ByteTrie {
 public:
  struct Entry {
    std::string_view word;
    Index value = 0;
  };
  ByteTrie() { nodes_.emplace_back(); }
  /// Where a word appears twice, its first entry counts. The words are not needed afterwards.
  explicit ByteTrie(std::vector<Entry> entries) : ByteTrie() {
    std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.word < b.word; });
    // Nodes in breadth-first order, so that the children of one stand side by side.
    struct Range {
      std::size_t node, begin, end, depth;
    };
    std::vector<Range> waiting{{0, 0, entries.size(), 0}};
    for (std::size_t next = 0; next < waiting.size(); ++next) {
      const auto [node, first, end, depth] = waiting[next];
      std::size_t begin = first;
      while (begin < end && entries[begin].word.size() == depth) {  // the word that ends here sorts before those that go on
        if (nodes_[node].value < 0 && depth > 0) nodes_[node].value = entries[begin].value;
        ++begin;
      }
      nodes_[node].children = static_cast<std::uint32_t>(nodes_.size());
      while (begin < end) {
        const char letter = entries[begin].word[depth];
        std::size_t stop = begin;
        while (stop < end && entries[stop].word[depth] == letter) ++stop;
        waiting.push_back({nodes_.size(), begin, stop, depth + 1});
        nodes_.emplace_back();
        nodes_.back().letter = static_cast<unsigned char>(letter);
        ++nodes_[node].count;
        begin = stop;
      }
    }
    for (std::uint32_t child = 0; child < nodes_[0].count; ++child)
      first_[nodes_[nodes_[0].children + child].letter] = nodes_[0].children + child;
  }

  [[nodiscard]] bool empty() const { return nodes_.size() == 1; }
  /// Whether some word begins with this byte.
  [[nodiscard]] bool begins(char letter) const { return first_[static_cast<unsigned char>(letter)] != 0; }

  /// Calls `found(length, value)` for every word that `text` has at `position`, the shortest first.
  template <class Found>
  void each_prefix(std::string_view text, std::size_t position, Found&& found) const {
    if (position >= text.size()) return;
    std::uint32_t node = first_[static_cast<unsigned char>(text[position])];
    for (std::size_t length = 1; node != 0; ++length) {
      if (nodes_[node].value >= 0) found(length, nodes_[node].value);
      if (position + length >= text.size()) return;
      node = child(nodes_[node], static_cast<unsigned char>(text[position + length]));
    }
  }
  /// The longest word that `text` has at `position`: its length, 0 if there is none, and its value.
  [[nodiscard]] std::pair<std::size_t, Index> longest(std::string_view text, std::size_t position) const {
    std::pair<std::size_t, Index> best{0, -1};
    each_prefix(text, position, [&](std::size_t length, Index value) { best = {length, value}; });
    return best;
  }

 private:
  struct Node {
    Index value = -1;
    std::uint32_t children = 0;
    std::uint16_t count = 0;
    unsigned char letter = 0;
  };
  [[nodiscard]] std::uint32_t child(const Node& node, unsigned char letter) const {
    const auto begin = nodes_.begin() + node.children, end = begin + node.count;
    const auto place = std::lower_bound(begin, end, letter, [](const Node& other, unsigned char wanted) { return other.letter < wanted; });
    return place != end && place->letter == letter ? static_cast<std::uint32_t>(place - nodes_.begin()) : 0;
  }

  std::vector<Node> nodes_;  // the root is 0, which is nobody's child
  std::array<std::uint32_t, 256> first_{};
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
