#include "text.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include <implicit_attention/io/text.hpp>

namespace implicit_attention::examples {
namespace {

struct Decoded {
  char32_t code_point;
  std::size_t length;  // bytes taken
  bool valid;
};

constexpr char32_t replacement = 0xFFFD;

Decoded decode(std::string_view text, std::size_t at) {
  const std::size_t length = utf8_character_size(text, at);
  if (length == 0) return {replacement, 1, false};
  const unsigned first = static_cast<unsigned char>(text[at]);
  char32_t point = length == 1 ? first : first & (0x7Fu >> length);
  for (std::size_t k = 1; k < length; ++k) point = (point << 6) | (static_cast<unsigned char>(text[at + k]) & 0x3Fu);
  return {point, length, true};
}

template <std::size_t Count>
bool within(const std::array<std::pair<char32_t, char32_t>, Count>& ranges, char32_t point) {
  return std::any_of(ranges.begin(), ranges.end(), [point](const auto& range) { return point >= range.first && point <= range.second; });
}

// Controls, and characters that are invisible or change the direction of what stands around them.
bool hidden(char32_t point) {
  static constexpr std::array<std::pair<char32_t, char32_t>, 10> ranges{{{0x00, 0x1F},
                                                                         {0x7F, 0x9F},
                                                                         {0xAD, 0xAD},
                                                                         {0x61C, 0x61C},
                                                                         {0x200B, 0x200F},
                                                                         {0x2028, 0x202E},
                                                                         {0x2060, 0x206F},
                                                                         {0xFEFF, 0xFEFF},
                                                                         {0xFFF9, 0xFFFB},
                                                                         {0xE0000, 0xE007F}}};
  return within(ranges, point);
}

bool combining(char32_t point) {
  static constexpr std::array<std::pair<char32_t, char32_t>, 13> ranges{{{0x300, 0x36F},
                                                                         {0x483, 0x489},
                                                                         {0x591, 0x5BD},
                                                                         {0x610, 0x61A},
                                                                         {0x64B, 0x65F},
                                                                         {0xE34, 0xE3A},
                                                                         {0x1AB0, 0x1AFF},
                                                                         {0x1DC0, 0x1DFF},
                                                                         {0x200B, 0x200F},
                                                                         {0x20D0, 0x20FF},
                                                                         {0xFE00, 0xFE0F},
                                                                         {0xFE20, 0xFE2F},
                                                                         {0xE0100, 0xE01EF}}};
  return within(ranges, point);
}

bool wide(char32_t point) {
  static constexpr std::array<std::pair<char32_t, char32_t>, 12> ranges{{{0x1100, 0x115F},
                                                                         {0x2E80, 0x303E},
                                                                         {0x3041, 0xA4CF},
                                                                         {0xA960, 0xA97F},
                                                                         {0xAC00, 0xD7A3},
                                                                         {0xF900, 0xFAFF},
                                                                         {0xFE30, 0xFE6F},
                                                                         {0xFF00, 0xFF60},
                                                                         {0xFFE0, 0xFFE6},
                                                                         {0x1F300, 0x1F6FF},
                                                                         {0x1F900, 0x1FAFF},
                                                                         {0x20000, 0x3FFFD}}};
  return within(ranges, point);
}

int width_of(char32_t point) { return combining(point) ? 0 : wide(point) ? 2 : 1; }

std::string escaped(char32_t point) {
  if (point == U'\n') return "\\n";
  if (point == U'\t') return "\\t";
  if (point == U'\r') return "\\r";
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(),
                point < 0x100     ? "\\x%02x"
                : point < 0x10000 ? "\\u%04x"
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
  const auto tail = [point](int shift) { return static_cast<char>(0x80 | ((point >> shift) & 0x3F)); };
  if (point < 0x80) return {static_cast<char>(point)};
  if (point < 0x800) return {static_cast<char>(0xC0 | (point >> 6)), tail(0)};
  if (point < 0x10000) return {static_cast<char>(0xE0 | (point >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | (point >> 18)), tail(12), tail(6), tail(0)};
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
      if (at == 0 && combining(next.code_point)) out += "\u25cc";  // a mark on its own would sit on whatever stands before the token
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

}  // namespace implicit_attention::examples
