// One question about every text of a file: a line of scores for a line of text, by many threads, through interruptions, in shares.
#pragma once

#include <optional>
#include <string>

#include "explanation.hpp"
#include "ranks.hpp"
#include "shard.hpp"

namespace implicit_attention::examples {

struct ManyTexts {
  std::string model, data, out;
  Shard shard;
  std::optional<Index> longest;  ///< a text of more tokens is an error of its line
};

/// What came of it.
struct ManyTextsResult {
  Index texts = 0, found = 0;  ///< in this share, and of these how many results were there before
  Index errors = 0;            ///< results that are errors
  std::string first_error;     ///< of the first of them: its line and what it says
};

/// Explains every text of `many.data`: a file of lines, of JSON Lines (an object with "text" or "tokens" each) where its name ends in
/// .jsonl or .ndjson. Empty lines are passed over. What is wrong with one text is written as its result, `{"line": 3, "error": "..."}`.
/// A file `many.out` from a run that was interrupted is gone on with; `many.out` + ".settings.json" says what it was made with, and this
/// fails (value) where that was something else. Several processes share the texts, each with one thread where `question` says nothing of
/// threads; the first writes the file, which is the same however many there are. Inside of Ranks::run.
[[nodiscard]] ManyTextsResult explain_many(const ExplanationOptions& question, const ManyTexts& many, Ranks& ranks);

}  // namespace implicit_attention::examples
