// Tokens that are looked for in text before it is cut into words: special tokens, and those that were added to a vocabulary later.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <implicit_attention/io/tokenizers/byte_trie.hpp>
#include <implicit_attention/io/tokenizers/normalizer.hpp>
#include <implicit_attention/io/tokenizers/token_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

struct AddedToken {
  std::string content;
  Index id = 0;
  bool special = false;                 ///< of the model's own language, and no part of what is written
  bool single_word = false;             ///< only where no letter or digit touches it
  bool lstrip = false, rstrip = false;  ///< takes white space before it, after it
  bool normalized = true;               ///< looked for after normalization, in its own normalized form
};

class AddedTokens {
 public:
  /// A stretch of text, or a token that was found in it.
  struct Part {
    std::string_view text;
    std::optional<Index> id;
  };

  AddedTokens() = default;
  AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer) : tokens_(std::move(tokens)) {
    std::vector<ByteTrie::Entry> raw, later;
    std::vector<std::string> normal_forms(tokens_.size());
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      const AddedToken& token = tokens_[i];
      by_id_.emplace(token.id, i);
      normal_forms[i] = token.normalized && !normalizer.empty() ? normalizer(token.content) : token.content;
      if (!normal_forms[i].empty()) (token.normalized ? later : raw).push_back({normal_forms[i], static_cast<Index>(i)});
    }
    raw_ = ByteTrie(std::move(raw));
    later_ = ByteTrie(std::move(later));
  }
  /// The list `added_tokens` of tokenizer.json.
  [[nodiscard]] static std::vector<AddedToken> read(const Json* list, const std::string& where) {
    std::vector<AddedToken> tokens;
    if (list == nullptr) return tokens;
    if (!list->is_array()) raise(ErrorKind::file, where, ": is ", json_text(*list), ", expected a list");
    for (std::size_t i = 0; i < list->size(); ++i) {
      JsonFields fields((*list)[i], json_element(where, i));
      AddedToken token;
      token.content = fields.text("content");
      token.id = fields.natural_number("id");
      token.special = fields.flag("special", false);
      token.single_word = fields.flag("single_word", false);
      token.lstrip = fields.flag("lstrip", false);
      token.rstrip = fields.flag("rstrip", false);
      token.normalized = fields.flag("normalized", !token.special);
      fields.finish();
      if (token.content.empty()) raise(ErrorKind::file, fields.path("content"), ": is empty");
      tokens.push_back(std::move(token));
    }
    return tokens;
  }

  [[nodiscard]] const std::vector<AddedToken>& list() const { return tokens_; }
  [[nodiscard]] const AddedToken* find(Index id) const {
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : &tokens_[found->second];
  }

  /// Cuts text that is not normalized yet at the tokens that are to be found there, and normalized text at the others.
  void split_raw(std::string_view text, std::vector<Part>& parts) const { split(raw_, text, parts); }
  void split_normalized(std::string_view text, std::vector<Part>& parts) const { split(later_, text, parts); }

 private:
  /// The leftmost token first, of several that begin there the longest.
  void split(const ByteTrie& trie, std::string_view text, std::vector<Part>& parts) const {
    std::size_t rest = 0;
    if (!trie.empty())
      for (std::size_t position = 0; position < text.size();) {
        const auto [length, index] = trie.begins(text[position]) ? trie.longest(text, position) : std::pair<std::size_t, Index>(0, -1);
        if (length == 0) {
          ++position;
          continue;
        }
        const AddedToken& token = tokens_[static_cast<std::size_t>(index)];
        std::size_t begin = position, end = position + length;
        position = end;
        if (token.single_word && (word_before(text, begin) || word_after(text, end))) continue;
        // White space that the token before took is not there to be taken again, nor to be a token that takes what is before it.
        if (token.lstrip) begin = std::max(without_space_before(text, begin, rest), rest);
        if (begin >= end) continue;
        if (token.rstrip) end = without_space_after(text, end);
        if (rest < begin) parts.push_back({text.substr(rest, begin - rest), std::nullopt});
        parts.push_back({text.substr(begin, end - begin), token.id});
        rest = end;
      }
    if (rest < text.size()) parts.push_back({text.substr(rest), std::nullopt});
  }
  [[nodiscard]] static bool word_before(std::string_view text, std::size_t position) {
    const CodePoint before = code_point_before(text, position);
    return before.length > 0 && is_word_character(before.value);
  }
  [[nodiscard]] static bool word_after(std::string_view text, std::size_t position) {
    const CodePoint after = code_point_at(text, position);
    return after.length > 0 && is_word_character(after.value);
  }
  [[nodiscard]] static std::size_t without_space_before(std::string_view text, std::size_t begin, std::size_t least) {
    while (begin > least) {
      const CodePoint before = code_point_before(text, begin);
      if (before.length == 0 || before.length > begin - least || !is_white_space(before.value)) break;
      begin -= before.length;
    }
    return begin;
  }
  [[nodiscard]] static std::size_t without_space_after(std::string_view text, std::size_t end) {
    for (CodePoint after = code_point_at(text, end); after.length > 0 && is_white_space(after.value); after = code_point_at(text, end))
      end += after.length;
    return end;
  }

  std::vector<AddedToken> tokens_;
  std::unordered_map<Index, std::size_t> by_id_;
  ByteTrie raw_, later_;  // values are places in tokens_
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
