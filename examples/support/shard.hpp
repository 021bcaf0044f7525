// One of several shares of a list of texts, for job arrays.
#pragma once

#include <string>
#include <string_view>

#include <implicit_attention/core/types.hpp>

namespace implicit_attention::examples {

/// Share `number` of `count`, from 1: texts one after the other, so that the results of all shares, in order, are those of the whole.
struct Shard {
  Index number = 1, count = 1;
  /// Reads `2/8`. Fails (value) on anything else, beginning with `who`.
  [[nodiscard]] static Shard parse(const std::string& text, std::string_view who = "--shard");
  /// `2/8`.
  [[nodiscard]] std::string text() const;
  /// Where the share of `total` texts begins, and where it ends.
  [[nodiscard]] Index begin(Index total) const { return total * (number - 1) / count; }
  [[nodiscard]] Index end(Index total) const { return total * number / count; }
};

}  // namespace implicit_attention::examples
