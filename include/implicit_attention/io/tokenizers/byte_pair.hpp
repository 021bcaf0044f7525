// Byte-pair encoding (arXiv 1508.07909): a word begins as its characters; then, again and again, the pair that was learnt first is merged.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <implicit_attention/io/tokenizers/json_fields.hpp>
#include <implicit_attention/io/tokenizers/token_table.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// What a model does with characters that are not tokens.
struct UnknownTokens {
  std::optional<Index> id;     ///< `<unk>`
  bool fuse = false;           ///< several in a row become one
  bool byte_fallback = false;  ///< they become the tokens of their bytes, `<0xE2>`, where the vocabulary has them all

  /// Appends the bytes of `text` as tokens, if that is wanted and all of them are in the vocabulary.
  [[nodiscard]] bool append_bytes(const TokenTable& tokens, std::string_view text, std::vector<Index>& ids) const {
    if (!byte_fallback) return false;
    const std::size_t before = ids.size();
    for (const char byte : text) {
      const std::optional<Index> found = tokens.id(byte_token(static_cast<unsigned char>(byte)));
      if (!found) {
        ids.resize(before);
        return false;
      }
      ids.push_back(*found);
    }
    return true;
  }
  [[noreturn]] static void refuse(std::string_view where, std::string_view text) {
    raise(ErrorKind::value, where, ": \"", printable(text), "\" is not a token of the vocabulary, and there is none for what is unknown");
  }
};

/// A vocabulary and its merges.
class BytePairModel {
 public:
  struct Merge {
    std::uint32_t rank;
    std::int32_t id;
  };
  struct Options {
    UnknownTokens unknown;
    std::string continuing_prefix, word_suffix;  ///< written before all characters of a word but the first, and after its last
    bool ignore_merges = false;                  ///< a word that is a token is that token
  };

  BytePairModel(TokenTable tokens, Options options, std::string where)
      : tokens_(std::move(tokens)), options_(std::move(options)), where_(std::move(where)) {}
  [[nodiscard]] static BytePairModel read(const Json& document, const std::string& where);

  /// A lower rank is merged earlier; of equal ranks, the pair further left. Fails (file) unless both and what they make are tokens.
  void add_merge(std::string_view left, std::string_view right, std::size_t rank) {
    const auto id = [&](std::string_view token) {
      const std::optional<Index> found = tokens_.id(token);
      if (!found)
        raise(ErrorKind::file, where_, ".merges[", rank, "]: \"", printable(token), "\", of \"", printable(left), "\" and \"",
              printable(right), "\", is not in the vocabulary");
      return *found;
    };
    const Index first = id(left), second = id(right);
    std::string_view tail = right;
    if (!options_.continuing_prefix.empty() && tail.starts_with(options_.continuing_prefix))
      tail.remove_prefix(options_.continuing_prefix.size());
    merges_.insert_or_assign(pair_key(first, second),
                             Merge{static_cast<std::uint32_t>(rank), static_cast<std::int32_t>(id(std::string(left).append(tail)))});
    joined_.insert(pair_key(code_point_before(left, left.size()).value, code_point_at(right, 0).value));
  }

  [[nodiscard]] const TokenTable& tokens() const { return tokens_; }
  [[nodiscard]] const Options& options() const { return options_; }

  /// What two neighbouring symbols are merged to, or null.
  [[nodiscard]] const Merge* merge(Index left, Index right) const {
    const auto found = merges_.find(pair_key(left, right));
    return found == merges_.end() ? nullptr : &found->second;
  }

  /// Whether no merge can go over the border at `position` of a word: none has two symbols that meet in these characters, and both
  /// characters are the symbols that they begin as.
  [[nodiscard]] bool never_joined(std::string_view word, std::size_t position, const CodePoint& before, const CodePoint& after) const {
    if (!options_.continuing_prefix.empty() || !options_.word_suffix.empty()) return false;
    if (joined_.count(pair_key(before.value, after.value)) != 0) return false;
    return tokens_.id(word.substr(position - before.length, before.length)) && tokens_.id(word.substr(position, after.length));
  }

  /// The tokens that a word begins as.
  void characters(std::string_view word, std::vector<Index>& ids) const {
    bool unknown_before = false;
    std::string decorated;
    for (std::size_t position = 0; position < word.size();) {
      const std::size_t length = std::max<std::size_t>(utf8_character_size(word, position), 1);
      std::string_view character = word.substr(position, length);
      const bool first = position == 0, last = position + length == word.size();
      position += length;
      if ((!first && !options_.continuing_prefix.empty()) || (last && !options_.word_suffix.empty())) {
        decorated = message(first ? "" : options_.continuing_prefix, character, last ? options_.word_suffix : "");
        character = decorated;
      }
      const std::optional<Index> found = tokens_.id(character);
      if (found) ids.push_back(*found);
      const bool unknown = !found && !options_.unknown.append_bytes(tokens_, character, ids);
      if (unknown) {
        if (!options_.unknown.id) UnknownTokens::refuse(where_, character);
        if (!options_.unknown.fuse || !unknown_before) ids.push_back(*options_.unknown.id);
      }
      unknown_before = unknown;
    }
  }

 private:
  template <class Number>
  [[nodiscard]] static std::uint64_t pair_key(Number left, Number right) {
    return (static_cast<std::uint64_t>(left) << 32U) | static_cast<std::uint64_t>(right);
  }

  TokenTable tokens_;
  Options options_;
  std::string where_;
  std::unordered_map<std::uint64_t, Merge> merges_;
  std::unordered_set<std::uint64_t> joined_;  // the two characters where the symbols of a merge meet
};

/// `{"the": 0, ...}` as it stands in tokenizer.json.
[[nodiscard]] inline TokenTable read_token_table(const Json& object, const std::string& where) {
  TokenTable tokens;
  for (const auto& [token, value] : object.items()) {
    const std::optional<Index> id = json_natural_number(value);
    if (!id)
      raise(ErrorKind::file, where, ": token \"", printable(token), "\": its id is ", json_text(value), ", expected an integer from 0");
    tokens.add(token, *id, where);
  }
  if (tokens.empty()) raise(ErrorKind::file, where, ": holds no tokens");
  return tokens;
}

/// The id of `unk_token`, which must be a token.
[[nodiscard]] inline std::optional<Index> read_unknown_token(JsonFields& fields, const TokenTable& tokens) {
  if (fields.find("unk_token") == nullptr) return std::nullopt;
  const std::string token = fields.text("unk_token");
  const std::optional<Index> id = tokens.id(token);
  if (!id) raise(ErrorKind::file, fields.path("unk_token"), ": \"", printable(token), "\" is not in the vocabulary");
  return id;
}

inline BytePairModel BytePairModel::read(const Json& document, const std::string& where) {
  JsonFields fields(document, where);
  fields.ignore("type");
  TokenTable tokens = read_token_table(fields.object("vocab"), fields.path("vocab"));
  Options options;
  if (const Json* const dropout = fields.find("dropout"); dropout != nullptr && *dropout != 0)
    fields.unexpected("dropout", *dropout, "null: with dropout, a text has no one encoding");
  options.unknown.id = read_unknown_token(fields, tokens);
  options.unknown.fuse = fields.flag("fuse_unk", false);
  options.unknown.byte_fallback = fields.flag("byte_fallback", false);
  options.continuing_prefix = fields.text("continuing_subword_prefix", "");
  options.word_suffix = fields.text("end_of_word_suffix", "");
  options.ignore_merges = fields.flag("ignore_merges", false);
  const Json& merges = fields.list("merges");
  fields.finish();

  BytePairModel model(std::move(tokens), std::move(options), where);
  model.merges_.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const Json& merge = merges[rank];
    const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    if (pair) {
      model.add_merge(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>(), rank);
      continue;
    }
    const std::string_view text = merge.is_string() ? std::string_view(merge.get_ref<const std::string&>()) : std::string_view();
    const std::size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
      raise(ErrorKind::file, json_element(fields.path("merges"), rank), ": is ", json_text(merge), ", expected \"a b\" or [\"a\", \"b\"]");
    model.add_merge(text.substr(0, space), text.substr(space + 1), rank);
  }
  return model;
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
