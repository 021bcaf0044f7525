// The results of an evaluation against known causes as they are shown: tables in a terminal, Markdown, JSON.
#pragma once

#include <string>

#include "cause_evaluation.hpp"

namespace implicit_attention::examples {

/// For a terminal: what was evaluated, a table for each comparison, formulations compared, what the columns mean.
[[nodiscard]] std::string cause_text(const CauseEvaluation& evaluation);
/// The same for a README.
[[nodiscard]] std::string cause_markdown(const CauseEvaluation& evaluation);
/// Means, intervals, and paired differences between formulations.
[[nodiscard]] std::string cause_json(const CauseEvaluation& evaluation);

}  // namespace implicit_attention::examples
