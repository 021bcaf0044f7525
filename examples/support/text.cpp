#include "text.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include <utf8proc.h>

#include <implicit_attention/io/text.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

namespace implicit_attention::examples {
namespace {

using detail::category;
using detail::is_mark;

struct Decoded {
  char32_t code_point;
  std::size_t length;  // bytes taken
  bool valid;
};

constexpr char32_t replacement = 0xFFFD;

Decoded decode(std::string_view text, std::size_t at) {
  const detail::CodePoint found = detail::code_point_at(text, at);
  return found.length == 0 ? Decoded{replacement, 1, false} : Decoded{found.value, found.length, true};
}

// Controls, and characters that are invisible or change the direction of what stands around them. Variation selectors are marks.
bool hidden(char32_t point) {
  switch (category(point)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return true;
    default:
      return utf8proc_get_property(static_cast<utf8proc_int32_t>(point))->ignorable != 0 && !is_mark(point);
  }
}

int width_of(char32_t point) {
  const int width = utf8proc_charwidth(static_cast<utf8proc_int32_t>(point));
  const utf8proc_category_t kind = category(point);  // of what Unicode has not assigned a terminal shows a box
  return width == 0 && (kind == UTF8PROC_CATEGORY_CN || kind == UTF8PROC_CATEGORY_CO) ? 1 : width;
}

/// A byte, or a character of C0 or C1, as `\x1b`; else `\u202e`.
std::string escaped(char32_t point, char32_t longest_byte = 0xFF) {
  if (point == U'\n') return "\\n";
  if (point == U'\t') return "\\t";
  if (point == U'\r') return "\\r";
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(),
                point <= longest_byte ? "\\x%02x"
                : point < 0x10000     ? "\\u%04x"
                                      : "\\U%08x",
                static_cast<unsigned>(point));
  return text.data();
}

}  // namespace

std::vector<char32_t> code_points(std::string_view text) {
  std::vector<char32_t> points;
  points.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Decoded next = decode(text, at);
    points.push_back(next.code_point);
    at += next.length;
  }
  return points;
}

std::string utf8(char32_t point) {
  std::string out;
  detail::append_utf8(out, point);
  return out;
}

std::string ascii(std::string_view text) {
  static constexpr std::array<std::pair<char32_t, const char*>, 10> plain{{{0x2026, "..."},
                                                                           {0x22EF, "~"},
                                                                           {0x2423, "_"},
                                                                           {0x2212, "-"},
                                                                           {0xD7, "x"},
                                                                           {0xB1, "+-"},
                                                                           {0x2191, "^"},
                                                                           {0x2193, "v"},
                                                                           {0x2502, "|"},
                                                                           {0x25CC, ""}}};
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const Decoded next = decode(text, at);
    const auto known = std::find_if(plain.begin(), plain.end(), [&](const auto& pair) { return pair.first == next.code_point; });
    if (!next.valid)
      out += escaped(static_cast<unsigned char>(text[at]));
    else if (next.code_point < 0x80)
      out += text[at];
    else
      out += known != plain.end() ? std::string(known->second) : escaped(next.code_point, 0x7F);
    at += next.length;
  }
  return out;
}

std::string visible(std::string_view text) {
  const bool only_spaces = !text.empty() && text.find_first_not_of(' ') == std::string_view::npos;
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const Decoded next = decode(text, at);
    if (!next.valid) {
      out += escaped(static_cast<unsigned char>(text[at]));
    } else if (only_spaces) {
      out += "\u2423";
    } else if (hidden(next.code_point)) {
      out += escaped(next.code_point);
    } else {
      if (at == 0 && is_mark(next.code_point)) out += "\u25cc";  // a mark on its own would sit on whatever stands before the token
      out += text.substr(at, next.length);
    }
    at += next.length;
  }
  return out;
}

int display_width(std::string_view text) {
  int width = 0;
  for (const char32_t point : code_points(text)) width += width_of(point);
  return width;
}

std::string shorten(std::string_view text, int columns) {
  if (display_width(text) <= columns) return std::string(text);
  std::string out;
  int width = 0;
  for (const char32_t point : code_points(text)) {
    width += width_of(point);
    if (width > columns - 1) break;
    out += utf8(point);
  }
  return columns > 0 ? out + "\u2026" : std::string();
}

std::string pad(std::string_view text, int columns, bool right) {
  const std::string spaces(static_cast<std::size_t>(std::max(0, columns - display_width(text))), ' ');
  return right ? spaces + std::string(text) : std::string(text) + spaces;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blank = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(blank);
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin, text.find_last_not_of(blank) + 1 - begin);
}

}  // namespace implicit_attention::examples
