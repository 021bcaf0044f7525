// An explanation in the terminal.
#pragma once

#include <string>

#include "explanation.hpp"
#include "terminal.hpp"

namespace implicit_attention::examples {

/// The token at the position explained, in quotes, for a sentence.
[[nodiscard]] std::string quoted_position(const Explanation& explanation, const ExplainedTarget& target);
/// A token as text: `" dog"`; a line end as `\n`.
[[nodiscard]] std::string quoted_token(const Explanation& explanation, Index token);
/// How the model's writing ended, as a remark; empty where it wrote as much as it was asked to.
[[nodiscard]] std::string ended_text(const Explanation& explanation);

/// All of it: what the model expects or wrote, and the tokens in colours, a table where there are none.
[[nodiscard]] std::string explanation_text(const Explanation& explanation, const Terminal& terminal);

}  // namespace implicit_attention::examples
