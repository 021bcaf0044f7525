// Whether scores sum to what is explained, as `evaluate` tells it of every row of its tables.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <implicit_attention/core/types.hpp>

namespace implicit_attention::examples {

/// One row's sums, in absolute values.
struct RowSums {
  std::string_view method, terms;        ///< terms: empty where they do not matter
  const std::vector<double>& explained;  ///< one per text or output; none where no logit is explained
  const std::vector<double>& gaps;       ///< |sum of scores + bias share + baseline - explained|
};

/// Of rows with these four members.
template <class Row>
[[nodiscard]] RowSums sums_of(const Row& row) {
  return {row.method, row.terms, row.explained, row.gaps};
}
template <class Row>
[[nodiscard]] std::vector<RowSums> sums_of_all(const std::vector<Row>& rows) {
  std::vector<RowSums> sums;
  for (const Row& row : rows) sums.push_back(sums_of(row));
  return sums;
}

/// Which methods' scores sum to what is explained, and by how much they miss it: a line each, and one of all that need not.
/// `steps`: the points of integrated gradients that were asked for, 0 where their error was; `counted` names what the means are over.
[[nodiscard]] std::string conservation_text(const std::vector<RowSums>& rows, Index steps, std::string_view counted, bool markdown);
/// The same of one row for a file: `sums_to_explained` and, where anything was measured, `conservation`.
void add_conservation(nlohmann::ordered_json& result, const RowSums& row, Index steps);

}  // namespace implicit_attention::examples
