// Words to tokens by byte-pair encoding: merging one word, and remembering the words seen before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/tokenizers/byte_pair.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Merges the symbols of words, one word at a time, in memory that it keeps. The model must outlive it.
class BytePairMerger {
 public:
  explicit BytePairMerger(const BytePairModel& model) : model_(model) {}

  /// The tokens of a word: while two neighbours can be merged, the pair of the lowest rank is.
  void operator()(std::string_view word, std::vector<Index>& ids) {
    first_.clear();
    model_.characters(word, first_);
    if (first_.size() >= nobody) raise(ErrorKind::limit, "a word is longer than 4 GiB");
    symbols_.clear();
    const auto count = static_cast<std::uint32_t>(first_.size());
    for (std::uint32_t i = 0; i < count; ++i)
      symbols_.push_back({static_cast<std::int32_t>(first_[i]), i == 0 ? nobody : i - 1, i + 1 == count ? nobody : i + 1});
    for (std::uint32_t i = 0; i + 1 < count; ++i) consider(i);
    while (!waiting_.empty()) {
      const Candidate best = waiting_.top();
      waiting_.pop();
      Symbol& left = symbols_[best.position];
      if (left.id != best.left || left.next != best.end || symbols_[best.end].id != best.right) continue;  // merged meanwhile
      Symbol& right = symbols_[best.end];
      left.id = best.merged;
      left.next = right.next;
      right.id = -1;
      if (left.next != nobody) symbols_[left.next].previous = best.position;
      if (left.previous != nobody) consider(left.previous);
      consider(best.position);
    }
    for (const Symbol& symbol : symbols_)
      if (symbol.id >= 0) ids.push_back(symbol.id);
    if (count <= most_symbols_kept) return;
    // One word may be a whole text, whose memory is not kept.
    first_ = std::vector<Index>();
    symbols_ = std::vector<Symbol>();
    waiting_ = decltype(waiting_)();
  }

 private:
  static constexpr std::uint32_t most_symbols_kept = 1U << 16U;
  static constexpr std::uint32_t nobody = 0xFFFF'FFFFU;
  struct Symbol {
    std::int32_t id;  // negative: merged into the one before
    std::uint32_t previous, next;
  };
  struct Candidate {
    std::uint32_t rank, position, end;  // the places of its two symbols
    std::int32_t left, right, merged;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : position > other.position; }
  };

  /// Queues the merge of a symbol with the next one, if there is such a merge.
  void consider(std::uint32_t position) {
    const Symbol& left = symbols_[position];
    if (left.next == nobody) return;
    const std::int32_t right = symbols_[left.next].id;
    if (const BytePairModel::Merge* const found = model_.merge(left.id, right))
      waiting_.push({found->rank, position, left.next, left.id, right, found->id});
  }

  const BytePairModel& model_;
  std::vector<Index> first_;  // what the word begins as
  std::vector<Symbol> symbols_;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> waiting_;
};

/// The tokens of many words; words seen before are remembered. For one thread. The model must outlive it.
class BytePairSession {
 public:
  explicit BytePairSession(const BytePairModel& model) : model_(model), merge_(model) {}
  void encode(std::string_view word, std::vector<Index>& ids) {
    if (word.size() <= longest_remembered) return encode_part(word, ids);
    if (model_.options().ignore_merges)
      if (const std::optional<Index> whole = model_.tokens().id(word)) return ids.push_back(*whole);
    // Files without a pre-tokenizer make one word of a whole text. It can be cut between characters that no merge joins.
    std::size_t begin = 0;
    CodePoint before = code_point_at(word, 0);
    for (std::size_t position = before.length; before.length > 0 && position < word.size();) {
      const CodePoint here = code_point_at(word, position);
      if (here.length > 0 && model_.never_joined(word, position, before, here)) {
        encode_cut(word.substr(begin, position - begin), ids);
        begin = position;
      }
      position += here.length;
      before = here;
    }
    encode_cut(word.substr(begin), ids);
  }

 private:
  static constexpr std::size_t longest_remembered = 64, most_remembered = 100'000;
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
  };

  void encode_part(std::string_view word, std::vector<Index>& ids) {
    if (word.empty()) return;
    if (word.size() > longest_remembered) return encode_anew(word, ids);
    if (const auto seen = seen_.find(word); seen != seen_.end()) {
      const auto begin = remembered_.begin() + static_cast<std::ptrdiff_t>(seen->second.first);
      ids.insert(ids.end(), begin, begin + static_cast<std::ptrdiff_t>(seen->second.second));
      return;
    }
    const std::size_t before = ids.size();
    encode_anew(word, ids);
    if (seen_.size() >= most_remembered) {
      seen_.clear();
      remembered_.clear();
    }
    seen_.emplace(word, std::pair(remembered_.size(), ids.size() - before));
    remembered_.insert(remembered_.end(), ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end());
  }

  /// A part of a word. `ignore_merges` is about whole words: a part that is a token is merged all the same.
  void encode_cut(std::string_view part, std::vector<Index>& ids) {
    if (model_.options().ignore_merges && model_.tokens().id(part)) return merge_(part, ids);
    encode_part(part, ids);
  }

  void encode_anew(std::string_view word, std::vector<Index>& ids) {
    if (model_.options().ignore_merges)
      if (const std::optional<Index> whole = model_.tokens().id(word)) return ids.push_back(*whole);
    merge_(word, ids);
  }

  const BytePairModel& model_;
  BytePairMerger merge_;
  /// Of each word its first token in `remembered_`, and how many it has.
  std::unordered_map<std::string, std::pair<std::size_t, std::size_t>, Hash, std::equal_to<>> seen_;
  std::vector<Index> remembered_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
