// What a language model writes after a text: the likeliest token, again and again.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/models/language_model.hpp>

namespace implicit_attention::examples {

/// The tokens with which the model in `directory` ends a text: `eos_token_id` of generation_config.json, else of config.json or of a GGUF
/// file's vocabulary; one or several, or none where nothing says so. Fails (file) on anything else under that name.
[[nodiscard]] std::vector<Index> end_tokens(const std::string& directory);

/// Tokens that a model wrote.
struct Continuation {
  std::vector<Index> ids;      ///< with the end token, where it came to one
  std::optional<Index> ended;  ///< that token
  std::string repeated;        ///< a part of the model that returns no state, so that the text was read again for every token; else empty
};

/// Continues `prompt` by at most `count` tokens, of equal logits the first. The state is carried: after the prompt a token costs one step.
/// `advance` is called after each. Fails (value) on NaN, and where the model looks at later
/// tokens.
template <Real Scalar>
[[nodiscard]] Continuation continue_text(const LanguageModel<Scalar>& model, const std::vector<Index>& prompt, Index count,
                                         const std::vector<Index>& ends, const Executor& executor, const std::function<void()>& advance);
extern template Continuation continue_text(const LanguageModel<float>&, const std::vector<Index>&, Index, const std::vector<Index>&,
                                           const Executor&, const std::function<void()>&);
extern template Continuation continue_text(const LanguageModel<double>&, const std::vector<Index>&, Index, const std::vector<Index>&,
                                           const Executor&, const std::function<void()>&);

}  // namespace implicit_attention::examples
