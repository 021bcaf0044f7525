#include "nearest_name.hpp"

#include <algorithm>
#include <cstddef>

#include <implicit_attention/core/error.hpp>

namespace implicit_attention::examples {
namespace {

char lower(char letter) { return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter; }

/// How many letters to change, leave out or put in to get one word from the other.
std::size_t edit_distance(std::string_view from, std::string_view to) {
  std::vector<std::size_t> row(to.size() + 1);
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (std::size_t i = 0; i < from.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < to.size(); ++j) {
      const std::size_t changed = diagonal + (lower(from[i]) == lower(to[j]) ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string nearest_name(std::string_view word, const std::vector<std::string>& names) {
  constexpr std::size_t longest = 64, shortest_beginning = 3;  // a longer word is no misspelling of a name
  std::string nearest;
  std::size_t least = longest;
  if (word.empty() || word.size() > longest) return nearest;
  for (const std::string& name : names) {
    if (name == word) return {};
    const std::size_t longer = std::max(word.size(), name.size());
    if (longer > longest) continue;
    std::size_t distance = edit_distance(word, name);
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
  return name.empty() ? name : message(", perhaps ", before, name, " is meant");
}

}  // namespace implicit_attention::examples
