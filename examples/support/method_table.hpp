// Tables with a row for each method and set of terms, as `evaluate` prints them for whatever it measured.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "numbers.hpp"

namespace implicit_attention::examples {

/// One measure of every method, in their order.
struct MethodColumn {
  std::string head;
  std::vector<std::string> cells;
  std::vector<bool> best;  ///< which cells are marked
};

/// Which rows have the best of their means, one or several, where better(a, b) says that a mean is better than another. Random scores are
/// left out: they change with shuffled weights anyway.
template <class Method, class Better>
[[nodiscard]] std::vector<bool> best_rows(const std::vector<Method>& methods, const std::vector<double>& means, Better better) {
  double best = std::numeric_limits<double>::quiet_NaN();
  const auto counts = [&](std::size_t row) { return methods[row].method != "random" && !std::isnan(means[row]); };
  for (std::size_t row = 0; row < means.size(); ++row)
    if (counts(row) && (std::isnan(best) || better(means[row], best))) best = means[row];
  std::vector<bool> rows;
  for (std::size_t row = 0; row < means.size(); ++row) rows.push_back(counts(row) && means[row] == best);
  return rows;
}

/// The methods' names and terms, then the columns; the best cells stand between the marks.
template <class Method>
[[nodiscard]] Table method_table(const std::vector<Method>& methods, const std::vector<MethodColumn>& columns,
                                 const std::string& best_begin, const std::string& best_end) {
  std::vector<std::string> heads{"method", "terms"};
  for (const MethodColumn& column : columns) heads.push_back(column.head);
  Table table(heads);
  const std::string unmarked(best_begin == best_end ? 0 : best_end.size(), ' ');
  for (std::size_t row = 0; row < methods.size(); ++row) {
    std::vector<std::string> cells{methods[row].method, methods[row].terms};
    for (const MethodColumn& column : columns)
      cells.push_back(column.best[row] ? best_begin + column.cells[row] + best_end : column.cells[row] + unmarked);
    table.add(std::move(cells));
  }
  return table;
}

/// A method with all terms, and the same method with others.
template <class Method>
struct FormulationPair {
  const Method *one, *other;
};
template <class Method>
[[nodiscard]] std::vector<FormulationPair<Method>> formulation_pairs(const std::vector<Method>& methods) {
  std::vector<FormulationPair<Method>> pairs;
  for (const Method& one : methods) {
    if (one.terms != "all") continue;
    for (const Method& other : methods)
      if (other.method == one.method && other.terms != "all") pairs.push_back({&one, &other});
  }
  return pairs;
}

}  // namespace implicit_attention::examples
