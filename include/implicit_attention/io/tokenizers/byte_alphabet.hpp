// The alphabet in which byte-level tokenizers write bytes: one printable character for each (GPT-2's bytes_to_unicode).
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <implicit_attention/io/tokenizers/unicode.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Bytes that are printable in Latin-1 stand for themselves; the others, in order, for U+0100 and what follows: a space is U+0120.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool itself = (byte >= 0x21U && byte <= 0x7EU) || (byte >= 0xA1U && byte <= 0xACU) || byte >= 0xAEU;
      const char32_t point = itself ? byte : next++;
      append_utf8(characters_[byte], point);
      bytes_[point] = static_cast<int>(byte);
    }
  }
  [[nodiscard]] static const ByteAlphabet& instance() {
    static const ByteAlphabet alphabet;
    return alphabet;
  }

  [[nodiscard]] const std::string& character(unsigned char byte) const { return characters_[byte]; }
  void append(std::string& out, std::string_view bytes) const {
    for (const char byte : bytes) out += characters_[static_cast<unsigned char>(byte)];
  }
  /// The bytes that `text` stands for; nothing if a character of it is not of the alphabet.
  [[nodiscard]] std::optional<std::string> bytes(std::string_view text) const {
    std::string out;
    for (std::size_t position = 0; position < text.size();) {
      const CodePoint here = code_point_at(text, position);
      if (here.length == 0 || here.value >= bytes_.size() || bytes_[here.value] < 0) return std::nullopt;
      out.push_back(static_cast<char>(bytes_[here.value]));
      position += here.length;
    }
    return out;
  }

 private:
  std::array<std::string, 256> characters_;
  std::array<int, 0x144> bytes_ = [] {
    std::array<int, 0x144> none{};
    none.fill(-1);
    return none;
  }();
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
