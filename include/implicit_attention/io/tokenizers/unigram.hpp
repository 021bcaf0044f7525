// Unigram: of all ways to write a text in tokens, the likeliest (arXiv 1804.10959), found by Viterbi's algorithm. And single words.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
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

class UnigramModel {
 public:
  /// `scores`: the logarithm of each token's probability, by id.
  UnigramModel(TokenTable tokens, std::vector<double> scores, UnknownTokens unknown, std::string where)
      : tokens_(std::move(tokens)), scores_(std::move(scores)), unknown_(unknown), where_(std::move(where)) {
    std::vector<ByteTrie::Entry> entries;
    for (const auto& [token, id] : tokens_.ids())
      if (!token.empty()) entries.push_back({token, id});
    trie_ = ByteTrie(std::move(entries));
    if (!scores_.empty()) unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - unknown_penalty;
  }
  [[nodiscard]] static UnigramModel read(const Json& document, const std::string& where) {
    JsonFields fields(document, where);
    fields.ignore("type");
    const Json& list = fields.list("vocab");
    const std::string list_where = fields.path("vocab");
    TokenTable tokens;
    std::vector<double> scores;
    for (std::size_t id = 0; id < list.size(); ++id) {
      const Json& entry = list[id];
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
        raise(ErrorKind::file, json_element(list_where, id), ": is ", json_text(entry), ", expected [token, score]");
      tokens.add(entry[0].get<std::string>(), static_cast<Index>(id), list_where);
      scores.push_back(entry[1].get<double>());
    }
    if (tokens.empty()) raise(ErrorKind::file, list_where, ": holds no tokens");
    UnknownTokens unknown;
    unknown.fuse = true;
    unknown.byte_fallback = fields.flag("byte_fallback", false);
    if (fields.find("unk_id") != nullptr) {
      unknown.id = fields.natural_number("unk_id");
      if (static_cast<std::size_t>(*unknown.id) >= list.size())
        raise(ErrorKind::file, fields.path("unk_id"), ": is ", *unknown.id, ", expected 0 to ", list.size() - 1);
    }
    fields.finish();
    return {std::move(tokens), std::move(scores), unknown, where};
  }

  [[nodiscard]] const TokenTable& tokens() const { return tokens_; }
  [[nodiscard]] const UnknownTokens& unknown() const { return unknown_; }

  void encode(std::string_view text, std::vector<Index>& ids) const {
    struct Best {
      double score = -std::numeric_limits<double>::infinity();
      std::size_t begin = 0;
      Index id = -1;  // of the token that ends here; -1: a character that is none, or the unknown token's own text
      bool reached = false;
    };
    std::vector<Best> best(text.size() + 1);
    best[0].score = 0;
    best[0].reached = true;
    for (std::size_t position = 0; position < text.size();) {
      const std::size_t length = std::max<std::size_t>(utf8_character_size(text, position), 1);
      const double here = best[position].score;
      const auto offer = [&](std::size_t end, double score, Index id) {
        Best& there = best[end];
        if (!there.reached || score > there.score) there = {score, position, id, true};
      };
      bool character = false;
      trie_.each_prefix(text, position, [&](std::size_t size, Index id) {
        offer(position + size, here + scores_[static_cast<std::size_t>(id)], id == unknown_.id ? -1 : id);
        character = character || size == length;
      });
      if (!character) offer(position + length, here + unknown_score_, -1);
      position += length;
    }
    std::vector<Span> spans;
    for (std::size_t end = text.size(); end > 0; end = best[end].begin) spans.push_back({best[end].begin, end});
    std::reverse(spans.begin(), spans.end());
    for (std::size_t i = 0; i < spans.size(); ++i) {
      const Index id = best[spans[i].end].id;
      if (id >= 0) {
        ids.push_back(id);
        continue;
      }
      Span stretch = spans[i];  // unknown characters in a row are one
      for (; i + 1 < spans.size() && best[spans[i + 1].end].id < 0; ++i) stretch.end = spans[i + 1].end;
      const std::string_view unknown = text.substr(stretch.begin, stretch.end - stretch.begin);
      if (const std::optional<Index> whole = tokens_.id(unknown)) {
        ids.push_back(*whole);
        continue;
      }
      if (unknown_.append_bytes(tokens_, unknown, ids)) continue;
      if (!unknown_.id) UnknownTokens::refuse(where_, unknown);
      ids.push_back(*unknown_.id);
    }
  }

 private:
  static constexpr double unknown_penalty = 10;  // sentencepiece's kUnkPenalty

  TokenTable tokens_;
  std::vector<double> scores_;
  UnknownTokens unknown_;
  std::string where_;
  ByteTrie trie_;
  double unknown_score_ = -unknown_penalty;  // one number, added as tokens' are: of two ways that are as likely the first stays
};

/// A word is a token or unknown.
class WordLevelModel {
 public:
  [[nodiscard]] static WordLevelModel read(const Json& document, const std::string& where) {
    JsonFields fields(document, where);
    fields.ignore("type");
    WordLevelModel model;
    model.where_ = where;
    model.tokens_ = read_token_table(fields.object("vocab"), fields.path("vocab"));
    // Hugging Face writes an unk_token that need not be in the vocabulary.
    if (fields.find("unk_token") != nullptr) model.unknown_.id = model.tokens_.id(fields.text("unk_token"));
    fields.finish();
    return model;
  }
  [[nodiscard]] const TokenTable& tokens() const { return tokens_; }
  [[nodiscard]] const UnknownTokens& unknown() const { return unknown_; }
  void encode(std::string_view word, std::vector<Index>& ids) const {
    const std::optional<Index> found = tokens_.id(word);
    if (!found && !unknown_.id) UnknownTokens::refuse(where_, word);
    ids.push_back(found ? *found : *unknown_.id);
  }

 private:
  TokenTable tokens_;
  UnknownTokens unknown_;
  std::string where_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
