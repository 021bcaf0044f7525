// Text to token ids and back, by what a model's directory holds.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/types.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/vocabulary.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// How text becomes tokens.
enum class TokenizerKind {
  bytes,    ///< token id = byte
  symbols,  ///< one UTF-8 character a token; `<special>` tokens of the vocabulary are recognised, the longest first
  words,    ///< what stands between white space (as Python's str.split has it)
  none      ///< token ids only: nothing tells how text would become tokens
};

/// `bytes`, `symbols` or `words`, for an option of a command line.
[[nodiscard]] inline TokenizerKind tokenizer_kind(std::string_view name) {
  if (name == "bytes") return TokenizerKind::bytes;
  if (name == "symbols") return TokenizerKind::symbols;
  if (name == "words") return TokenizerKind::words;
  raise(ErrorKind::value, message("tokenizer \"", printable(name), "\" is unknown, expected bytes, symbols or words"));
}

/// Unknown words and symbols become `<unk>`; without one they are an error that names them. A word that is unknown is tried
/// once more in lower case (ASCII) if no token of the vocabulary has an upper-case letter, special tokens aside: such a
/// vocabulary was made from lower-cased text.
class Tokenizer {
 public:
  /// By what `directory` holds: `vocab.json` (symbols if all its tokens but special ones are single characters, else words);
  /// without it, bytes if `vocabulary_size` is 256; else no text, only ids. `kind` overrides.
  /// `vocabulary_size` is the number of ids the model takes: the rows of its embedding.
  [[nodiscard]] static Tokenizer open(const std::filesystem::path& directory, Index vocabulary_size,
                                      std::optional<TokenizerKind> kind = std::nullopt) {
    Tokenizer tokenizer;
    tokenizer.where_ = directory.string();
    tokenizer.size_ = vocabulary_size;
    std::error_code ignored;
    const std::filesystem::path file = directory / "vocab.json";
    const bool vocabulary = std::filesystem::exists(file, ignored);
    if (vocabulary && kind != TokenizerKind::bytes) {
      tokenizer.vocabulary_ = Vocabulary::read(file, vocabulary_size);
      if (!kind && std::filesystem::exists(directory / "merges.txt", ignored))
        tokenizer.why_none_ = "merges.txt beside vocab.json means byte pairs, which are not read here";
      tokenizer.kind_ = kind ? *kind : !tokenizer.why_none_.empty() ? TokenizerKind::none : tokenizer.kind_of_vocabulary();
      tokenizer.look_over_vocabulary();
      return tokenizer;
    }
    if (kind == TokenizerKind::symbols || kind == TokenizerKind::words)
      raise(ErrorKind::file, message(tokenizer.where_, ": no vocab.json here, which symbols and words need; expected bytes, or token ids"));
    if (!kind && vocabulary_size != 256)
      tokenizer.why_none_ = message("no vocab.json here, and the vocabulary is ", vocabulary_size, ", not the 256 of bytes");
    tokenizer.kind_ = kind ? *kind : vocabulary_size == 256 ? TokenizerKind::bytes : TokenizerKind::none;
    return tokenizer;
  }

  [[nodiscard]] TokenizerKind kind() const { return kind_; }
  [[nodiscard]] Index vocabulary_size() const { return size_; }
  [[nodiscard]] const Vocabulary& vocabulary() const { return vocabulary_; }

  /// The tokens of `text`. Fails with ErrorKind::value on text that is empty, not UTF-8 (but as bytes), or has an unknown
  /// token where the vocabulary has no `<unk>`.
  [[nodiscard]] std::vector<Index> encode(std::string_view text) const {
    if (kind_ == TokenizerKind::none)
      raise(ErrorKind::value, message(where_, ": text cannot become tokens: ", why_none_, "; give token ids, or name a tokenizer"));
    std::vector<Index> ids;
    if (kind_ == TokenizerKind::bytes) {
      for (const char letter : text) ids.push_back(checked_byte(static_cast<unsigned char>(letter)));
    } else {
      if (const std::size_t bad = utf8_error(text); bad != std::string_view::npos)
        raise(ErrorKind::value, message("the text is not valid UTF-8 at byte ", bad));
      kind_ == TokenizerKind::symbols ? encode_symbols(text, ids) : encode_words(text, ids);
    }
    if (ids.empty()) raise(ErrorKind::value, "the text is empty: expected at least one token");
    return ids;
  }

  /// The id of one token by its name, as `<cls>`; for bytes, the byte itself or its label. Fails if there is none.
  [[nodiscard]] Index id(std::string_view token) const {
    if (const std::optional<Index> found = vocabulary_.id(token)) return *found;
    if (kind_ == TokenizerKind::bytes) {
      for (unsigned byte = 0; byte < 256; ++byte)
        if ((token.size() == 1 && static_cast<unsigned char>(token[0]) == byte) || token == byte_label(static_cast<unsigned char>(byte)))
          return checked_byte(static_cast<unsigned char>(byte));
      raise(ErrorKind::value, message(where_, ": token \"", printable(token), "\" is not a single byte, and bytes are the tokens here"));
    }
    if (vocabulary_.empty())
      raise(ErrorKind::value, message(where_, ": token \"", printable(token), "\" cannot be looked up: there is no vocab.json"));
    raise(ErrorKind::value, message(where_, ": token \"", printable(token), "\" is not in vocab.json", special_hint()));
  }

  /// Fails unless every id is one the model takes.
  void check(const std::vector<Index>& ids) const {
    if (ids.empty()) raise(ErrorKind::value, "there are no tokens: expected at least one");
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (ids[i] < 0 || ids[i] >= size_)
        raise(ErrorKind::value, message("token ", i, " is ", ids[i], ", expected 0 to ", size_ - 1, ", the model's vocabulary"));
  }

  /// An id as a person reads it: its token, a byte as itself or as `\n` or `\xE2`, and the id where nothing names it.
  /// Fit for a terminal: control characters in a vocabulary are escaped.
  [[nodiscard]] std::string label(Index id) const {
    if (kind_ == TokenizerKind::bytes && id >= 0 && id < 256) return byte_label(static_cast<unsigned char>(id));
    if (const std::string* token = vocabulary_.token(id)) return printable(*token);
    return message(id);
  }
  [[nodiscard]] std::vector<std::string> labels(const std::vector<Index>& ids) const {
    std::vector<std::string> all;
    for (const Index id : ids) all.push_back(label(id));
    return all;
  }

 private:
  [[nodiscard]] TokenizerKind kind_of_vocabulary() const {
    bool any = false;
    for (const auto& [token, id] : vocabulary_.ids()) {
      if (Vocabulary::special(token)) continue;
      if (utf8_character_size(token, 0) != token.size()) return TokenizerKind::words;
      any = true;
    }
    return any ? TokenizerKind::symbols : TokenizerKind::words;
  }
  void look_over_vocabulary() {
    unknown_ = vocabulary_.id("<unk>");
    for (const auto& [token, id] : vocabulary_.ids()) {
      if (Vocabulary::special(token))
        longest_special_ = std::max(longest_special_, token.size());
      else if (token != lower_case(token))
        lower_case_only_ = false;
    }
  }

  [[nodiscard]] static std::string lower_case(std::string_view text) {
    std::string lower(text);
    for (char& letter : lower)
      if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
    return lower;
  }
  /// Bytes of the white space at `position`, 0 if it is none: what Python's str.split splits at.
  [[nodiscard]] static std::size_t white_space(std::string_view text, std::size_t position) {
    const auto byte = static_cast<unsigned char>(text[position]);
    if (byte == ' ' || (byte >= 0x09U && byte <= 0x0DU) || (byte >= 0x1CU && byte <= 0x1FU)) return 1;
    const std::string_view rest = text.substr(position);
    for (const std::string_view space :
         {"\xC2\x85", "\xC2\xA0", "\xE1\x9A\x80", "\xE2\x80\xA8", "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"})
      if (rest.starts_with(space)) return space.size();
    const bool quad = rest.starts_with("\xE2\x80") && rest.size() > 2 && static_cast<unsigned char>(rest[2]) >= 0x80U &&
                      static_cast<unsigned char>(rest[2]) <= 0x8AU;  // U+2000 to U+200A
    return quad ? 3 : 0;
  }

  [[nodiscard]] Index checked_byte(unsigned char byte) const {
    if (byte >= size_)
      raise(ErrorKind::value, message(where_, ": byte ", static_cast<int>(byte), " is beyond the model's vocabulary of ", size_));
    return byte;
  }
  [[nodiscard]] Index known_or_unknown(std::string_view token, std::string_view what) const {
    if (const std::optional<Index> found = vocabulary_.id(token)) return *found;
    if (lower_case_only_ && kind_ == TokenizerKind::words)
      if (const std::optional<Index> found = vocabulary_.id(lower_case(token))) return *found;
    if (unknown_) return *unknown_;
    raise(ErrorKind::value,
          message(where_, ": ", what, " \"", printable(token), "\" is not in vocab.json, which has no <unk> to stand for it"));
  }
  void encode_symbols(std::string_view text, std::vector<Index>& ids) const {
    for (std::size_t position = 0; position < text.size();) {
      const std::string_view rest = text.substr(position);
      std::size_t size = 0;
      if (rest.front() == '<')
        for (std::size_t length = std::min(rest.size(), longest_special_); length > 2 && size == 0; --length)
          if (Vocabulary::special(rest.substr(0, length)) && vocabulary_.id(rest.substr(0, length))) size = length;
      if (size == 0) size = utf8_character_size(text, position);
      ids.push_back(known_or_unknown(rest.substr(0, size), "symbol"));
      position += size;
    }
  }
  void encode_words(std::string_view text, std::vector<Index>& ids) const {
    std::size_t begin = 0;
    for (std::size_t position = 0; position <= text.size();) {
      const bool end = position == text.size();
      const std::size_t space = end ? 0 : white_space(text, position);
      if (end || space != 0) {
        if (position > begin) ids.push_back(known_or_unknown(text.substr(begin, position - begin), "word"));
        begin = position + space;
      }
      position += space == 0 ? 1 : space;
    }
  }
  [[nodiscard]] std::string special_hint() const {
    std::string hint;
    for (const auto& [token, id] : vocabulary_.ids())
      if (Vocabulary::special(token) && hint.size() < 120)
        hint += message(hint.empty() ? "; special tokens there: " : " ", printable(token));
    return hint;
  }

  TokenizerKind kind_ = TokenizerKind::none;
  std::string where_, why_none_;  // why_none_: what a message says where kind_ is none
  Index size_ = 0;
  Vocabulary vocabulary_;
  std::optional<Index> unknown_;
  std::size_t longest_special_ = 0;
  bool lower_case_only_ = true;
};

IMPLICIT_ATTENTION_NAMESPACE_END
