// Changes that decoders make to the texts of tokens.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/io/tokenizers/text_pattern.hpp>
#include <implicit_attention/io/tokenizers/token_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// All tokens as one.
inline void fuse_tokens(std::vector<std::string>& tokens) {
  std::string all;
  for (const std::string& token : tokens) all += token;
  tokens.assign(1, all);
}

/// Tokens of bytes as their bytes; several in a row become one token.
inline void join_byte_tokens(std::vector<std::string>& tokens) {
  std::size_t kept = 0;
  bool after_byte = false;
  for (std::string& token : tokens) {
    const std::optional<unsigned char> byte = byte_of_token(token);
    if (byte && after_byte)
      tokens[kept - 1] += static_cast<char>(*byte);
    else
      tokens[kept++] = byte ? std::string(1, static_cast<char>(*byte)) : std::move(token);
    after_byte = byte.has_value();
  }
  tokens.resize(kept);
}

/// Takes `unit` away from the start and the end of a token, as often as it is there, and at most so many times.
inline void strip_token(std::string& token, std::string_view unit, std::size_t start, std::size_t stop) {
  for (std::size_t k = 0; k < start && token.starts_with(unit); ++k) token.erase(0, unit.size());
  for (std::size_t k = 0; k < stop && token.ends_with(unit); ++k) token.resize(token.size() - unit.size());
}

/// Hugging Face's clean-up of English, in its order.
[[nodiscard]] inline std::string tidied(std::string text) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 11> changes{{{" .", "."},
                                                                                          {" ?", "?"},
                                                                                          {" !", "!"},
                                                                                          {" ,", ","},
                                                                                          {" ' ", "'"},
                                                                                          {" n't", "n't"},
                                                                                          {" 'm", "'m"},
                                                                                          {" do not", " don't"},
                                                                                          {" 's", "'s"},
                                                                                          {" 've", "'ve"},
                                                                                          {" 're", "'re"}}};
  for (const auto& [from, to] : changes)
    if (text.find(from) != std::string::npos) text = TextPattern(std::string(from)).replaced(text, to);
  return text;
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
