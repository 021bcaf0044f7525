// What an evaluation found for single texts, in files: a line a text, so that shares of the texts can be evaluated apart and joined.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <implicit_attention/core/types.hpp>

#include "evaluation.hpp"

namespace implicit_attention::examples {

/// `{"line":4,"numbers":[...]}` and a line end: what `packed` gives, each number with the digits that tell it from all others; NaN is null.
[[nodiscard]] std::string evaluated_line(Index line, std::string_view packed);

/// The files of all shares of an evaluation, by number.
struct EvaluationShares {
  Index count = 0;
  std::map<Index, std::string> files;
};
/// Reads from the settings beside each file which share it is. Fails (value) where one is missing or there twice, (file) where settings
/// cannot be read.
[[nodiscard]] EvaluationShares shares_of(const std::vector<std::string>& files);

/// Joins the files of all shares to `evaluation`, whose texts stand in `lines` of the data. Each file has its settings beside it, as
/// ResumableLines writes them: all are `settings`, but for the key "shard". Fails (value) where something else was evaluated or a share is
/// not whole, (file) where a file cannot be read.
void join_shares(Evaluation& evaluation, const EvaluationShares& shares, const nlohmann::ordered_json& settings,
                 const std::vector<Index>& lines);

}  // namespace implicit_attention::examples
