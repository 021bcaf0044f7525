// WordPiece: a word is cut into the longest tokens that fit, from left to right (arXiv 1810.04805).
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/io/tokenizers/byte_pair.hpp>
#include <implicit_attention/io/tokenizers/byte_trie.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

class WordPieceModel {
 public:
  [[nodiscard]] static WordPieceModel read(const Json& document, const std::string& where) {
    JsonFields fields(document, where);
    fields.ignore("type");
    WordPieceModel model;
    model.where_ = where;
    model.tokens_ = read_token_table(fields.object("vocab"), fields.path("vocab"));
    model.unknown_.id = model.tokens_.id(fields.text("unk_token", "[UNK]"));
    model.longest_ = fields.find("max_input_chars_per_word") == nullptr
                         ? 100
                         : static_cast<std::size_t>(fields.natural_number("max_input_chars_per_word"));
    const std::string prefix = fields.text("continuing_subword_prefix", "##");
    fields.finish();
    std::vector<ByteTrie::Entry> first, later;
    for (const auto& [token, id] : model.tokens_.ids()) {
      if (!token.empty()) first.push_back({token, id});
      if (token.size() > prefix.size() && token.starts_with(prefix)) later.push_back({token.substr(prefix.size()), id});
    }
    model.first_ = ByteTrie(std::move(first));
    model.later_ = ByteTrie(std::move(later));
    return model;
  }
  [[nodiscard]] const TokenTable& tokens() const { return tokens_; }
  [[nodiscard]] const UnknownTokens& unknown() const { return unknown_; }

  /// A word that is not made of tokens to its end, or that has too many characters, is unknown as a whole.
  void encode(std::string_view word, std::vector<Index>& ids) const {
    const std::size_t before = ids.size();
    std::size_t characters = 0;
    for (const char byte : word) characters += (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U ? 1U : 0U;
    for (std::size_t position = 0; characters <= longest_ && position < word.size();) {
      std::pair<std::size_t, Index> best{0, -1};
      (position == 0 ? first_ : later_).each_prefix(word, position, [&](std::size_t length, Index id) {
        const std::size_t end = position + length;
        if (end == word.size() || (static_cast<unsigned char>(word[end]) & 0xC0U) != 0x80U) best = {length, id};  // whole characters
      });
      if (best.first == 0) break;
      ids.push_back(best.second);
      position += best.first;
      if (position == word.size()) return;
    }
    ids.resize(before);
    if (!unknown_.id) UnknownTokens::refuse(where_, word);
    ids.push_back(*unknown_.id);
  }

 private:
  TokenTable tokens_;
  UnknownTokens unknown_;
  std::string where_;
  std::size_t longest_ = 100;
  ByteTrie first_, later_;  // words at a word's beginning, and those that go on, without their prefix
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
