// Explanations as files: pictures, tensors, JSON.
#pragma once

#include <string>
#include <vector>

#include "explanation.hpp"

namespace implicit_attention::examples {

/// A picture of several models' explanations: the sentence in colours, or which token looks at which.
struct Picture {
  std::string path, title;  ///< an empty title: one that says what it shows
  bool maps = false;
};
/// Fails (value) where a map is to be drawn of a method that has none.
void draw(const Picture& picture, const ExplanationOptions& question, const std::vector<Explanation>& explanations);

/// Writes input_ids, logits, scores, map and gradients as safetensors, in the precision that was computed in.
void write_tensors(const std::string& path, const ExplanationOptions& question, const Explanation& explanation);
/// Writes the same, gradients left out, and tokens and predictions as one JSON object.
void write_json(const std::string& path, const ExplanationOptions& question, const Explanation& explanation);

/// One line of JSON Lines about the text of line `line`: tokens, predictions and scores, no maps and no logits.
[[nodiscard]] std::string json_line(Index line, const Explanation& explanation);
/// The same where it has come to nothing.
[[nodiscard]] std::string json_error_line(Index line, const std::string& error);

}  // namespace implicit_attention::examples
