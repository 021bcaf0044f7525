// UTF-8, and text from untrusted files made safe for a message.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <implicit_attention/config.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Bytes of the UTF-8 character that starts at `position`; 0 if none well-formed does (overlong forms, surrogates and
/// values above U+10FFFF are not).
[[nodiscard]] inline std::size_t utf8_character_size(std::string_view text, std::size_t position) {
  if (position >= text.size()) return 0;
  const auto byte = [&](std::size_t offset) -> unsigned {
    return position + offset < text.size() ? static_cast<unsigned char>(text[position + offset]) : 0U;
  };
  const auto follows = [&](std::size_t offset) { return (byte(offset) & 0xC0U) == 0x80U; };
  const unsigned lead = byte(0);
  if (lead < 0x80U) return 1;
  if (lead >= 0xC2U && lead <= 0xDFU) return follows(1) ? 2 : 0;
  if (lead >= 0xE0U && lead <= 0xEFU) {
    if (!follows(1) || !follows(2)) return 0;
    if (lead == 0xE0U && byte(1) < 0xA0U) return 0;
    if (lead == 0xEDU && byte(1) > 0x9FU) return 0;
    return 3;
  }
  if (lead >= 0xF0U && lead <= 0xF4U) {
    if (!follows(1) || !follows(2) || !follows(3)) return 0;
    if (lead == 0xF0U && byte(1) < 0x90U) return 0;
    if (lead == 0xF4U && byte(1) > 0x8FU) return 0;
    return 4;
  }
  return 0;
}

/// The position of the first byte that is not UTF-8; `npos` if all of it is.
[[nodiscard]] inline std::size_t utf8_error(std::string_view text) {
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t size = utf8_character_size(text, position);
    if (size == 0) return position;
    position += size;
  }
  return std::string_view::npos;
}

/// One byte as `\n`, `\t`, `\r` or `\x1B` where it is not printable ASCII.
template <class = void>
[[nodiscard]] std::string byte_label(unsigned char byte) {
  if (byte >= 0x20U && byte < 0x7FU) return std::string(1, static_cast<char>(byte));
  if (byte == '\n') return "\\n";
  if (byte == '\t') return "\\t";
  if (byte == '\r') return "\\r";
  constexpr std::string_view digits = "0123456789ABCDEF";
  return std::string("\\x") + digits[byte >> 4U] + digits[byte & 0xFU];
}

/// Text that is safe to print: control characters and bytes that are not UTF-8 are escaped, and text longer than `longest` bytes is
/// cut, since it may come from an untrusted file.
template <class = void>
[[nodiscard]] std::string printable(std::string_view text, std::size_t longest = 120) {
  std::string out;
  for (std::size_t position = 0; position < text.size();) {
    if (out.size() >= longest) return out + "...";
    const std::size_t size = utf8_character_size(text, position);
    // U+0080 to U+009F are control characters too.
    const bool control = size == 2 && text[position] == '\xC2' && static_cast<unsigned char>(text[position + 1]) < 0xA0U;
    if (size <= 1 || control) {
      out += byte_label(static_cast<unsigned char>(text[position]));
      ++position;
    } else {
      out.append(text.substr(position, size));
      position += size;
    }
  }
  return out;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
