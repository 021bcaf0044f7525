#include "nearest_name.hpp"

#include <algorithm>
#include <cstddef>

#include <implicit_attention/core/edit_distance.hpp>
#include <implicit_attention/core/error.hpp>

namespace implicit_attention::examples {

std::string nearest_name(std::string_view word, const std::vector<std::string>& names) {
  constexpr std::size_t longest = 64, shortest_beginning = 3;  // a longer word is no misspelling of a name
  std::string nearest;
  std::size_t least = longest;
  if (word.empty() || word.size() > longest) return nearest;
  for (const std::string& name : names) {
    if (name == word) return {};
    const std::size_t longer = std::max(word.size(), name.size());
    if (longer > longest) continue;
    std::size_t distance = detail::edit_distance(word, name);
    const bool begins = word.size() >= shortest_beginning && std::string_view(name).substr(0, word.size()) == word;
    if (2 * distance >= longer && !begins) continue;
    if (begins) distance = std::min<std::size_t>(distance, 2);
    if (distance >= least) continue;
    least = distance;
    nearest = name;
  }
  return nearest;
}

std::string perhaps(std::string_view word, const std::vector<std::string>& names, std::string_view before) {
  const std::string name = nearest_name(word, names);
  if (name.empty()) return name;
  const bool blank = name.front() == ' ' || name.back() == ' ';  // as tokens have it
  return blank ? detail::message(", perhaps \"", before, name, "\" is meant") : detail::message(", perhaps ", before, name, " is meant");
}

}  // namespace implicit_attention::examples
