// What every way to make tokens of text offers, whatever file it came from.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// Text to ids and back. Nothing in it changes, so threads may share one.
class TextCodec {
 public:
  TextCodec() = default;
  TextCodec(const TextCodec&) = delete;
  TextCodec& operator=(const TextCodec&) = delete;
  virtual ~TextCodec() = default;

  /// Appends the tokens of `text`, without what the model puts before and after.
  virtual void encode(std::string_view text, std::vector<Index>& ids) const = 0;
  /// What the model puts before and after a text's tokens.
  [[nodiscard]] virtual std::vector<Index> before() const { return {}; }
  [[nodiscard]] virtual std::vector<Index> after() const { return {}; }

  /// The token that is written exactly like this, or that stands for exactly this text.
  [[nodiscard]] virtual std::optional<Index> find(std::string_view token) const = 0;
  /// The bytes that a token stands for within a text; nothing where there is no such token.
  [[nodiscard]] virtual std::optional<std::string> bytes(Index id) const = 0;
  /// Whether it is a mark of the model's own, such as `<bos>`, and no text.
  [[nodiscard]] virtual bool special(Index id) const = 0;
  /// The text of many tokens.
  [[nodiscard]] virtual std::string decode(const std::vector<Index>& ids) const = 0;
  [[nodiscard]] virtual Index largest_id() const = 0;
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
