#include "shard.hpp"

#include <charconv>
#include <system_error>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/text.hpp>

namespace implicit_attention::examples {

Shard Shard::parse(const std::string& text, std::string_view who) {
  constexpr Index most = 1'000'000;
  Shard shard;
  const char* const end = text.data() + text.size();
  const auto number = std::from_chars(text.data(), end, shard.number);
  if (number.ec == std::errc() && number.ptr != end && *number.ptr == '/') {
    const auto count = std::from_chars(number.ptr + 1, end, shard.count);
    if (count.ec == std::errc() && count.ptr == end && shard.number >= 1 && shard.number <= shard.count && shard.count <= most)
      return shard;
  }
  detail::raise(ErrorKind::value, who, ": \"", printable(text, 40), "\" is not a share, expected I/N with I from 1 to N, for example 2/8");
}

std::string Shard::text() const { return detail::message(number, "/", count); }

}  // namespace implicit_attention::examples
