// For messages about a name that is unknown: the known name that is probably meant.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace implicit_attention::examples {

/// The name that `word` is probably a misspelling of: it differs by fewer letters (added, left out or changed; case does not count) than
/// half of the longer of both, or it begins with `word`. Empty where there is none, or where `word` is one of the names. Of several the
/// nearest.
[[nodiscard]] std::string nearest_name(std::string_view word, const std::vector<std::string>& names);

/// `, perhaps NAME is meant`, with `before` in front of the name; empty where nothing is near.
[[nodiscard]] std::string perhaps(std::string_view word, const std::vector<std::string>& names, std::string_view before = {});

}  // namespace implicit_attention::examples
