// Changes that normalizers make to text, character by character.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// The characters for which keep(character) holds, and bytes that are not UTF-8.
template <class Keep>
[[nodiscard]] std::string characters_kept(std::string_view text, Keep keep) {
  std::string out;
  for (std::size_t position = 0; position < text.size();) {
    const CodePoint here = code_point_at(text, position);
    const std::size_t length = here.length == 0 ? 1 : here.length;
    if (here.length == 0 || keep(here.value)) out += text.substr(position, length);
    position += length;
  }
  return out;
}

/// Without combining marks.
[[nodiscard]] inline std::string without_marks(std::string_view text) {
  return characters_kept(text, [](char32_t point) { return !is_mark(point); });
}

/// BERT's clean-up, as in Hugging Face's library: white space becomes a space; controls, formats and private characters are removed,
/// unassigned ones stay.
[[nodiscard]] inline std::string cleaned(std::string_view text) {
  std::string out;
  for (std::size_t position = 0; position < text.size();) {
    const CodePoint here = code_point_at(text, position);
    const std::size_t length = here.length == 0 ? 1 : here.length;
    const bool blank = here.value == '\t' || here.value == '\n' || here.value == '\r';
    const utf8proc_category_t kind = category(here.value);
    const bool other = kind >= UTF8PROC_CATEGORY_CC && kind <= UTF8PROC_CATEGORY_CO;
    if (blank || (!other && is_white_space(here.value)))
      out += ' ';
    else if (!other && here.value != 0xFFFDU)
      out += text.substr(position, length);
    position += length;
  }
  return out;
}

/// Sentencepiece's rules for machine translation, as in Hugging Face's library: controls are removed, and
/// what separates words becomes a space.
[[nodiscard]] inline std::string normalized_for_translation(std::string_view text) {
  const auto is_control = [](char32_t point) {
    return (point >= 0x01 && point <= 0x08) || point == 0x0B || (point >= 0x0E && point <= 0x1F) || point == 0x7F || point == 0x8F ||
           point == 0x9F;
  };
  const auto separates = [](char32_t point) {
    return point == 0x09 || point == 0x0A || point == 0x0C || point == 0x0D || point == 0x1680 || (point >= 0x200B && point <= 0x200F) ||
           point == 0x2028 || point == 0x2029 || point == 0x2581 || point == 0xFEFF || point == 0xFFFD;
  };
  std::string out;
  for (std::size_t position = 0; position < text.size();) {
    const CodePoint here = code_point_at(text, position);
    const std::size_t length = here.length == 0 ? 1 : here.length;
    if (separates(here.value))
      out += ' ';
    else if (!is_control(here.value))
      out += text.substr(position, length);
    position += length;
  }
  return out;
}

/// A space on both sides of every Han character, as BERT has it.
[[nodiscard]] inline std::string spaced_han(std::string_view text) {
  static constexpr std::array<std::pair<char32_t, char32_t>, 8> blocks{{{0x4E00, 0x9FFF},
                                                                        {0x3400, 0x4DBF},
                                                                        {0x20000, 0x2A6DF},
                                                                        {0x2A700, 0x2B73F},
                                                                        {0x2B740, 0x2B81F},
                                                                        {0x2B920, 0x2CEAF},
                                                                        {0xF900, 0xFAFF},
                                                                        {0x2F800, 0x2FA1F}}};
  std::string out;
  for (std::size_t position = 0; position < text.size();) {
    const CodePoint here = code_point_at(text, position);
    const std::string_view character = text.substr(position, here.length == 0 ? 1 : here.length);
    const bool han = std::any_of(blocks.begin(), blocks.end(),
                                 [&](const auto& block) { return here.value >= block.first && here.value <= block.second; });
    if (han)
      out.append(1, ' ').append(character).append(1, ' ');
    else
      out += character;
    position += character.size();
  }
  return out;
}

/// Without the white space at its ends.
[[nodiscard]] inline std::string stripped(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    const CodePoint first = code_point_at(text, 0);
    if (first.length == 0 || !is_white_space(first.value)) break;
    text.remove_prefix(first.length);
  }
  while (right && !text.empty()) {
    const CodePoint last = code_point_before(text, text.size());
    if (last.length == 0 || !is_white_space(last.value)) break;
    text.remove_suffix(last.length);
  }
  return std::string(text);
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
