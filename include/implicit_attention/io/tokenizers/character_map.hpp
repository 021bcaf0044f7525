// The map of characters that sentencepiece compiles its normalization into ("Precompiled" in tokenizer.json): what a character, or a few
// that belong together, become. Bytes: the size of a trie, the trie (a double array of 32-bit units), and texts that end in a zero byte,
// to which the trie's values point.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/io/tokenizers/text_limit.hpp>
#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// RFC 4648, with padding. Nothing where `text` is not that.
[[nodiscard]] inline std::optional<std::string> base64_bytes(std::string_view text) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  if (text.size() % 4 != 0) return std::nullopt;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  text.remove_suffix(padding);
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3 + 2);
  std::uint32_t bits = 0;
  unsigned known = 0;
  for (const char letter : text) {
    const std::size_t digit = digits.find(letter);
    if (digit == std::string_view::npos) return std::nullopt;
    bits = bits << 6U | static_cast<std::uint32_t>(digit);
    known += 6;
    if (known < 8) continue;
    known -= 8;
    bytes.push_back(static_cast<char>(bits >> known & 0xFFU));
  }
  if ((bits & ((1U << known) - 1U)) != 0) return std::nullopt;  // bits that no byte has
  return bytes;
}

class CharacterMap {
 public:
  /// Fails (file), naming `where`, on bytes that are no such map.
  CharacterMap(std::string_view bytes, std::string_view where) {
    std::uint32_t size = 0;
    if (bytes.size() < sizeof(size)) raise(ErrorKind::file, where, ": has ", bytes.size(), " bytes, expected a trie's size first");
    std::memcpy(&size, bytes.data(), sizeof(size));
    bytes.remove_prefix(sizeof(size));
    if (size == 0 || size % 4 != 0 || size > bytes.size())
      raise(ErrorKind::file, where, ": names a trie of ", size, " bytes, and ", bytes.size(), " follow; expected a multiple of 4");
    units_.resize(size / 4);
    std::memcpy(units_.data(), bytes.data(), size);
    texts_ = bytes.substr(size);
    if (const std::size_t bad = utf8_error(texts_); bad != std::string_view::npos)
      raise(ErrorKind::file, where, ": its texts are not valid UTF-8 at byte ", bad);
    where_ = where;
  }

  /// As Hugging Face has it: characters that belong together (a grapheme cluster), if they are of at most five bytes, become what the
  /// shortest entry says that they begin with; else each character becomes what its own entry says.
  [[nodiscard]] std::string operator()(std::string_view text, const TextLimit& limit = {}) const {
    std::string out;
    out.reserve(text.size());
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = cluster_end(text, begin);
      const std::string_view cluster = text.substr(begin, end - begin);
      begin = end;
      if (cluster.size() < 6) {
        if (const std::optional<std::string_view> found = find(cluster)) {
          limit.append(out, *found);
          continue;
        }
      }
      for (std::size_t position = 0; position < cluster.size();) {
        const std::size_t length = std::max<std::size_t>(utf8_character_size(cluster, position), 1);
        const std::string_view character = cluster.substr(position, length);
        limit.append(out, find(character).value_or(character));
        position += length;
      }
    }
    return out;
  }

 private:
  static constexpr std::size_t longest_text = 1024;  // the longest of Unicode's own has 33 bytes

  /// What the shortest entry that `key` begins with becomes. A link that leads out of the trie, or a value beyond the texts, is a
  /// damaged file's: fails (file).
  [[nodiscard]] std::optional<std::string_view> find(std::string_view key) const {
    std::size_t place = 0;
    std::uint32_t unit = unit_at(place);
    place ^= offset(unit);
    for (const char letter : key) {
      const auto byte = static_cast<unsigned char>(letter);
      if (byte == 0) return std::nullopt;
      place ^= byte;
      unit = unit_at(place);
      if ((unit & 0x8000'00FFU) != byte) return std::nullopt;  // the unit's label
      place ^= offset(unit);
      if ((unit >> 8U & 1U) == 0) continue;
      const std::size_t begin = unit_at(place) & 0x7FFF'FFFFU;
      if (begin > texts_.size() || (begin < texts_.size() && (static_cast<unsigned char>(texts_[begin]) & 0xC0U) == 0x80U)) damaged(begin);
      const std::size_t size = std::min(texts_.find('\0', begin), texts_.size()) - begin;
      if (size > longest_text) damaged(begin);  // it would be added for every character
      return std::string_view(texts_).substr(begin, size);
    }
    return std::nullopt;
  }
  [[nodiscard]] static std::size_t offset(std::uint32_t unit) { return std::size_t(unit >> 10U) << ((unit & (1U << 9U)) >> 6U); }
  [[nodiscard]] std::uint32_t unit_at(std::size_t place) const {
    if (place >= units_.size()) damaged(place);
    return units_[place];
  }
  [[noreturn]] void damaged(std::size_t place) const {
    raise(ErrorKind::file, where_, ": is damaged: an entry points to ", place, ", outside the map or at more than ", longest_text,
          " bytes");
  }
  [[nodiscard]] static std::size_t cluster_end(std::string_view text, std::size_t position) {
    CodePoint here = code_point_at(text, position);
    position += std::max<std::size_t>(here.length, 1);
    utf8proc_int32_t state = 0;
    while (position < text.size()) {
      const CodePoint next = code_point_at(text, position);
      if (here.value < 0x80U && next.value < 0x80U && !(here.value == '\r' && next.value == '\n')) break;
      if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(here.value), static_cast<utf8proc_int32_t>(next.value), &state))
        break;
      position += std::max<std::size_t>(next.length, 1);
      here = next;
    }
    return position;
  }

  std::vector<std::uint32_t> units_;
  std::string texts_, where_;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
