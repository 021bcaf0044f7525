// How long a text may become in the steps of a tokenizer's file, each of which may write more than it reads.
#pragma once

#include <cstddef>
#include <limits>
#include <string>
#include <string_view>

#include <implicit_attention/core/error.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN
namespace detail {

/// The most bytes that may come out of a step, the name of the step, and how many have come out of it for other tokens. Unicode's
/// compatibility forms write 11 bytes for one, and an alphabet of bytes two for one behind them; thirty replacements of a letter by two
/// would fill the memory.
struct TextLimit {
  std::size_t most = std::numeric_limits<std::size_t>::max();
  std::string_view where = {};
  std::size_t before = 0;

  static constexpr std::size_t for_each_byte = 64, for_each_text = 4096;
  /// For what a text of so many bytes becomes.
  [[nodiscard]] static constexpr std::size_t of(std::size_t bytes) { return for_each_byte * bytes + for_each_text; }

  void check(std::size_t bytes) const {
    if (bytes > most - before)
      raise(ErrorKind::limit, where, ": the text grows beyond ", most, " bytes, ", for_each_byte, " for each that it had, and ",
            for_each_text);
  }
  void append(std::string& out, std::string_view more) const {
    check(out.size() + more.size());
    out += more;
  }
};

}  // namespace detail
IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
