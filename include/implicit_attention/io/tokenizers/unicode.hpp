// What a tokenizer asks of Unicode: code points, categories, normal forms, lower case. The tables are utf8proc's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <utf8proc.h>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// A part of a text, in bytes.
struct Span {
  std::size_t begin = 0, end = 0;
};

/// A character of well-formed UTF-8 and how many bytes it takes; length 0 where no well-formed one starts.
struct CodePoint {
  char32_t value = 0;
  std::size_t length = 0;
};

[[nodiscard]] inline CodePoint code_point_at(std::string_view text, std::size_t position) {
  const std::size_t length = utf8_character_size(text, position);
  if (length == 0) return {};
  const auto first = static_cast<unsigned char>(text[position]);
  char32_t value = length == 1 ? first : first & (0x7FU >> length);
  for (std::size_t k = 1; k < length; ++k) value = (value << 6U) | (static_cast<unsigned char>(text[position + k]) & 0x3FU);
  return {value, length};
}

/// The character that ends right before `end`; length 0 at the beginning, or where no well-formed one ends.
[[nodiscard]] inline CodePoint code_point_before(std::string_view text, std::size_t end) {
  for (std::size_t length = 1; length <= 4 && length <= end; ++length)
    if (const CodePoint found = code_point_at(text, end - length); found.length == length) return found;
  return {};
}

inline void append_utf8(std::string& out, char32_t point) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const utf8proc_ssize_t count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(point), bytes.data());
  for (utf8proc_ssize_t k = 0; k < count; ++k) out.push_back(static_cast<char>(bytes[static_cast<std::size_t>(k)]));
}

[[nodiscard]] inline utf8proc_category_t category(char32_t point) { return utf8proc_category(static_cast<utf8proc_int32_t>(point)); }

/// Unicode's property White_Space.
[[nodiscard]] inline bool is_white_space(char32_t point) {
  if (point <= 0x7FU) return point == ' ' || (point >= 0x09U && point <= 0x0DU);
  const utf8proc_category_t kind = category(point);
  return point == 0x85U || kind == UTF8PROC_CATEGORY_ZS || kind == UTF8PROC_CATEGORY_ZL || kind == UTF8PROC_CATEGORY_ZP;
}
/// Category M.
[[nodiscard]] inline bool is_mark(char32_t point) {
  const utf8proc_category_t kind = category(point);
  return kind == UTF8PROC_CATEGORY_MN || kind == UTF8PROC_CATEGORY_MC || kind == UTF8PROC_CATEGORY_ME;
}
/// Category N.
[[nodiscard]] inline bool is_numeric(char32_t point) {
  const utf8proc_category_t kind = category(point);
  return kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL || kind == UTF8PROC_CATEGORY_NO;
}
/// Category P, and all of ASCII's punctuation, some of which Unicode counts as symbols.
[[nodiscard]] inline bool is_punctuation(char32_t point) {
  if (point <= 0x7FU)
    return point > ' ' && point < 0x7FU && !(point >= '0' && point <= '9') && !((point | 0x20U) >= 'a' && (point | 0x20U) <= 'z');
  const utf8proc_category_t kind = category(point);
  return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}
/// What a regular expression's \w means in Unicode: letters, marks, decimal digits, letter numbers, connectors, joiners, circled letters
/// (UTS 18, annex C).
[[nodiscard]] inline bool is_word_character(char32_t point) {
  const utf8proc_category_t kind = category(point);
  const bool letter = kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
  const bool circled = (point >= 0x24B6U && point <= 0x24E9U) || (point >= 0x1F130U && point <= 0x1F149U) ||
                       (point >= 0x1F150U && point <= 0x1F169U) || (point >= 0x1F170U && point <= 0x1F189U);
  return letter || is_mark(point) || kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL || kind == UTF8PROC_CATEGORY_PC ||
         point == 0x200CU || point == 0x200DU || circled;
}

enum class NormalForm { nfc, nfd, nfkc, nfkd };

[[nodiscard]] inline bool is_ascii(std::string_view text) {
  for (const char letter : text)
    if (static_cast<unsigned char>(letter) >= 0x80U) return false;
  return true;
}

/// One of Unicode's normal forms of well-formed UTF-8.
[[nodiscard]] inline std::string normalized(std::string_view text, NormalForm form) {
  if (is_ascii(text)) return std::string(text);
  const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const bool composed = form == NormalForm::nfc || form == NormalForm::nfkc;
  const int options = static_cast<int>(UTF8PROC_STABLE) | static_cast<int>(composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                      (compatible ? static_cast<int>(UTF8PROC_COMPAT) : 0);
  utf8proc_uint8_t* out = nullptr;
  const utf8proc_ssize_t length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                               static_cast<utf8proc_ssize_t>(text.size()), &out, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owned(out, std::free);
  if (length < 0) raise(ErrorKind::value, "the text cannot be brought to a normal form: ", utf8proc_errmsg(length));
  return {reinterpret_cast<const char*>(out), static_cast<std::size_t>(length)};
}

/// Each character's own lower case, whatever stands around it.
[[nodiscard]] inline std::string lower_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t position = 0; position < text.size();) {
    const CodePoint here = code_point_at(text, position);
    const auto lower = static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(here.value)));
    if (here.length == 0)
      out.push_back(text[position]);
    else if (here.value == 0x130U)
      out += "i\xCC\x87";  // the one character whose lower case is two (SpecialCasing.txt)
    else
      append_utf8(out, lower);
    position += here.length == 0 ? 1 : here.length;
  }
  return out;
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
