// Tokens as a person reads them in a row: text, with characters whole that lie in several tokens.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// What one token of a row stands for.
struct TokenText {
  std::string bytes;
  bool alone = false;  ///< a mark or a number, and no part of the text around it
};

/// What stands for a token that holds nothing but the rest of a character which began before it.
inline constexpr std::string_view continuation_label = "\u22EF";

/// One label a token. A character whose bytes lie in several tokens is shown whole by the first of them; bytes that are no character are
/// shown as `\xE2`, control characters escaped.
[[nodiscard]] inline std::vector<std::string> labels_of(const std::vector<TokenText>& tokens) {
  std::vector<std::string> labels(tokens.size());
  for (std::size_t first = 0; first < tokens.size();) {
    if (tokens[first].alone) {
      labels[first] = printable(tokens[first].bytes);
      ++first;
      continue;
    }
    std::size_t end = first;
    std::string text;
    while (end < tokens.size() && !tokens[end].alone) text += tokens[end++].bytes;
    std::size_t position = 0, stop = 0;  // `position`: what is shown so far; `stop`: where the token ends
    for (std::size_t token = first; token < end; ++token) {
      stop += tokens[token].bytes.size();
      const bool taken = position >= stop && !tokens[token].bytes.empty();
      const std::size_t begin = position;
      while (position < stop) {
        const std::size_t size = utf8_character_size(text, position);
        position += size == 0 ? 1 : size;
      }
      labels[token] = taken ? std::string(continuation_label) : printable(std::string_view(text).substr(begin, position - begin));
    }
    first = end;
  }
  return labels;
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
