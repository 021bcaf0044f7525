// Text as the symbols or words of a vocab.json.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/core/types.hpp>
#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/vocabulary.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// What is unknown becomes `<unk>`; without one it is an error that names it. A word that is unknown is tried once more in lower case
/// (ASCII) if no token of the vocabulary has an upper-case letter, special tokens aside: such a vocabulary was made from lower-cased text.
class VocabularyText {
 public:
  VocabularyText() = default;
  VocabularyText(Vocabulary vocabulary, std::string where);

  [[nodiscard]] const Vocabulary& vocabulary() const { return vocabulary_; }
  /// Whether all tokens but special ones are single characters, and there is one.
  [[nodiscard]] bool all_symbols() const;

  /// Each character a token, but for special tokens, the longest first. `text` is well-formed UTF-8, here and below.
  void encode_symbols(std::string_view text, std::vector<Index>& ids) const;
  /// What stands between white space.
  void encode_words(std::string_view text, std::vector<Index>& ids) const;
  /// Some of the special tokens, for a message.
  [[nodiscard]] std::string special_hint() const;

 private:
  [[nodiscard]] static std::string ascii_lower_case(std::string_view text);
  /// Bytes of the white space at `position`, 0 if it is none: what Python's str.split splits at, which is Unicode's and four controls.
  [[nodiscard]] static std::size_t white_space(std::string_view text, std::size_t position);
  [[nodiscard]] Index known_or_unknown(std::string_view token, std::string_view what, bool any_case) const;

  std::string where_;
  Vocabulary vocabulary_;
  std::optional<Index> unknown_;
  std::size_t longest_special_ = 0;
  bool lower_case_only_ = true;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#if IMPLICIT_ATTENTION_IO_BODIES
#include <algorithm>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

IMPLICIT_ATTENTION_IO_BODY VocabularyText::VocabularyText(Vocabulary vocabulary, std::string where)
    : where_(std::move(where)), vocabulary_(std::move(vocabulary)) {
  unknown_ = vocabulary_.id("<unk>");
  for (const auto& [token, id] : vocabulary_.ids()) {
    if (Vocabulary::special(token))
      longest_special_ = std::max(longest_special_, token.size());
    else if (token != ascii_lower_case(token))
      lower_case_only_ = false;
  }
}

IMPLICIT_ATTENTION_IO_BODY bool VocabularyText::all_symbols() const {
  bool any = false;
  for (const auto& [token, id] : vocabulary_.ids()) {
    if (Vocabulary::special(token)) continue;
    if (utf8_character_size(token, 0) != token.size()) return false;
    any = true;
  }
  return any;
}

IMPLICIT_ATTENTION_IO_BODY void VocabularyText::encode_symbols(std::string_view text, std::vector<Index>& ids) const {
  for (std::size_t position = 0; position < text.size();) {
    const std::string_view rest = text.substr(position);
    std::size_t size = 0;
    if (rest.front() == '<')
      for (std::size_t length = std::min(rest.size(), longest_special_); length > 2 && size == 0; --length)
        if (Vocabulary::special(rest.substr(0, length)) && vocabulary_.id(rest.substr(0, length))) size = length;
    if (size == 0) size = utf8_character_size(text, position);
    ids.push_back(known_or_unknown(rest.substr(0, size), "symbol", false));
    position += size;
  }
}

IMPLICIT_ATTENTION_IO_BODY void VocabularyText::encode_words(std::string_view text, std::vector<Index>& ids) const {
  std::size_t begin = 0;
  for (std::size_t position = 0; position <= text.size();) {
    const bool end = position == text.size();
    const std::size_t space = end ? 0 : white_space(text, position);
    if (end || space != 0) {
      if (position > begin) ids.push_back(known_or_unknown(text.substr(begin, position - begin), "word", lower_case_only_));
      begin = position + space;
    }
    position += space == 0 ? 1 : space;
  }
}

IMPLICIT_ATTENTION_IO_BODY std::string VocabularyText::special_hint() const {
  std::string hint;
  for (const auto& [token, id] : vocabulary_.ids())
    if (Vocabulary::special(token) && hint.size() < 120) hint += message(hint.empty() ? "; special tokens there: " : " ", printable(token));
  return hint;
}

IMPLICIT_ATTENTION_IO_BODY std::string VocabularyText::ascii_lower_case(std::string_view text) {
  std::string lower(text);
  for (char& letter : lower)
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  return lower;
}

IMPLICIT_ATTENTION_IO_BODY std::size_t VocabularyText::white_space(std::string_view text, std::size_t position) {
  const CodePoint here = code_point_at(text, position);
  return here.length > 0 && (is_white_space(here.value) || (here.value >= 0x1CU && here.value <= 0x1FU)) ? here.length : 0;
}

IMPLICIT_ATTENTION_IO_BODY Index VocabularyText::known_or_unknown(std::string_view token, std::string_view what, bool any_case) const {
  if (const std::optional<Index> found = vocabulary_.id(token)) return *found;
  if (any_case)
    if (const std::optional<Index> found = vocabulary_.id(ascii_lower_case(token))) return *found;
  if (unknown_) return *unknown_;
  raise(ErrorKind::value, where_, ": ", what, " \"", printable(token), "\" is not in vocab.json, which has no <unk> to stand for it");
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
#endif
