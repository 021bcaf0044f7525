// A model's vocab.json: tokens by id and ids by token.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/types.hpp>
#include <implicit_attention/io/bodies.hpp>
#include <implicit_attention/io/path_text.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Tokens and their ids, one to one. A token in angle brackets, `<cls>`, is special.
class Vocabulary {
 public:
  Vocabulary() = default;

  /// Reads a JSON object from token to id. `size` is the number of ids the model has: the rows of its embedding.
  /// Fails with ErrorKind::file, naming the token, on an id that is no integer in 0..size-1 or stands there twice.
  [[nodiscard]] static Vocabulary read(const std::filesystem::path& path, Index size);

  [[nodiscard]] bool empty() const { return ids_.empty(); }
  [[nodiscard]] const std::map<std::string, Index, std::less<>>& ids() const { return ids_; }
  [[nodiscard]] std::optional<Index> id(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }
  /// The token of an id; null where the vocabulary names none (padding of the embedding).
  [[nodiscard]] const std::string* token(Index id) const {
    const auto found = tokens_.find(id);
    return found == tokens_.end() ? nullptr : &found->second;
  }
  [[nodiscard]] static bool special(std::string_view token) { return token.size() > 2 && token.front() == '<' && token.back() == '>'; }

 private:
  std::map<std::string, Index, std::less<>> ids_;
  std::map<Index, std::string> tokens_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#if IMPLICIT_ATTENTION_IO_BODIES
#include <implicit_attention/io/json.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_IO_BODY Vocabulary Vocabulary::read(const std::filesystem::path& path, Index size) {
  const std::string where = path_text(path);
  JsonLimits limits;
  limits.depth = 1;
  const JsonDocument read = read_json_object(path, limits);
  const Json& document = read;
  if (document.empty()) detail::raise(ErrorKind::file, where, ": holds no tokens");
  Vocabulary vocabulary;
  for (const auto& [token, value] : document.items()) {
    const std::string who = detail::message(where, ": token \"", printable(token), "\"");
    if (token.empty()) detail::raise(ErrorKind::file, who, ": a token must not be empty");
    const std::optional<Index> id = json_natural_number(value);
    if (!id) detail::raise(ErrorKind::file, who, ": its id is ", json_text(value), ", expected an integer from 0");
    if (*id >= size)
      detail::raise(ErrorKind::file, who, ": its id ", *id, " is beyond the model's vocabulary of ", size, " (ids 0 to ", size - 1, ")");
    const auto [other, fresh] = vocabulary.tokens_.emplace(*id, token);
    if (!fresh) detail::raise(ErrorKind::file, who, ": its id ", *id, " is that of \"", printable(other->second), "\" too");
    vocabulary.ids_.emplace(token, *id);
  }
  return vocabulary;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
#endif
