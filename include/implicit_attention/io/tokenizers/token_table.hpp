// Tokens by id and ids by token, for vocabularies of any size.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/types.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// One to one. Ids need not be without gaps.
class TokenTable {
 public:
  static constexpr Index largest_id = 0x7FFF'FFFF;

  TokenTable() = default;
  TokenTable(TokenTable&&) = default;
  TokenTable& operator=(TokenTable&&) = default;
  TokenTable(const TokenTable&) = delete;  // the maps look into the texts
  TokenTable& operator=(const TokenTable&) = delete;
  ~TokenTable() = default;

  /// Fails (file), naming `where` and the token, where a token or an id appears twice, or the id is out of range.
  void add(std::string token, Index id, std::string_view where) {
    const auto who = [&] { return message(where, ": token \"", printable(token), "\""); };
    if (id < 0 || id > largest_id) raise(ErrorKind::file, who(), ": its id is ", id, ", expected 0 to ", largest_id);
    if (const auto other = ids_.find(token); other != ids_.end())
      raise(ErrorKind::file, who(), " appears twice, with the ids ", other->second, " and ", id);
    if (const auto other = tokens_.find(id); other != tokens_.end())
      raise(ErrorKind::file, who(), ": its id ", id, " is that of \"", printable(other->second), "\" too");
    const std::string_view text = texts_.emplace_back(std::move(token));
    ids_.emplace(text, id);
    tokens_.emplace(id, text);
  }

  [[nodiscard]] bool empty() const { return ids_.empty(); }
  [[nodiscard]] std::size_t size() const { return ids_.size(); }
  [[nodiscard]] const std::unordered_map<std::string_view, Index>& ids() const { return ids_; }
  [[nodiscard]] std::optional<Index> id(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }
  [[nodiscard]] std::optional<std::string_view> token(Index id) const {
    const auto found = tokens_.find(id);
    return found == tokens_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  std::deque<std::string> texts_;
  std::unordered_map<std::string_view, Index> ids_;
  std::unordered_map<Index, std::string_view> tokens_;
};

/// `<0x0A>`: how vocabularies with byte fallback name a byte.
[[nodiscard]] inline std::string byte_token(unsigned char byte) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  return std::string("<0x") + digits[byte >> 4U] + digits[byte & 0xFU] + '>';
}
/// The byte that a token of that form names.
[[nodiscard]] inline std::optional<unsigned char> byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned value = 0;
  for (const char letter : token.substr(3, 2)) {
    const bool digit = letter >= '0' && letter <= '9', upper = letter >= 'A' && letter <= 'F', lower = letter >= 'a' && letter <= 'f';
    if (!digit && !upper && !lower) return std::nullopt;
    value = value * 16U + static_cast<unsigned>(digit ? letter - '0' : upper ? letter - 'A' + 10 : letter - 'a' + 10);
  }
  return static_cast<unsigned char>(value);
}

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
