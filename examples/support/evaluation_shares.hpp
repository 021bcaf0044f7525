// What an evaluation found for single texts, in files: a line a text, so that shares of the texts can be evaluated apart and joined.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include <implicit_attention/core/types.hpp>

#include "evaluation.hpp"

namespace implicit_attention::examples {

/// `{"line":4,"numbers":[...]}` and a line end: what `packed` gives, each number with the digits that tell it from all others; NaN is null.
[[nodiscard]] std::string evaluated_line(Index line, std::string_view packed);

/// Joins the files of all shares to `evaluation`, whose texts stand in `lines` of the data. Each file has its settings beside it, as
/// ResumableLines writes them: all are `settings`, but for the key "shard", and the shares are all there are. Fails (value) where something
/// else was evaluated or a share is missing or is not whole, (file) where a file cannot be read.
void join_shares(Evaluation& evaluation, const std::vector<std::string>& files, const nlohmann::ordered_json& settings,
                 const std::vector<Index>& lines);

}  // namespace implicit_attention::examples
