// A language model and the tokens it reads, as the command lines name them: --model, --text or --tokens, --tokenizer, --prepend, --append.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/models/language_model.hpp>

namespace CLI {
class App;
}

namespace implicit_attention::examples {

/// What the options say.
struct SequenceOptions {
  std::optional<std::string> text, tokens;   ///< one of the two
  std::string tokenizer;                     ///< empty: by what the model's directory holds
  std::vector<std::string> prepend, append;  ///< tokens by name, such as `<cls>`
};

/// Adds the options to a program's.
void add_sequence_options(CLI::App& app, SequenceOptions& options);

/// A model read from a directory as Hugging Face lays it out.
template <Real Scalar>
struct LoadedModel {
  std::string directory;
  LanguageModel<Scalar> model;
  Tokenizer tokenizer;

  /// Reads config.json, the weights and the vocabulary; `tokenizer` as in SequenceOptions.
  [[nodiscard]] static LoadedModel open(const std::string& directory, const std::string& tokenizer);
};
extern template struct LoadedModel<float>;
extern template struct LoadedModel<double>;

/// The token ids that the options stand for.
[[nodiscard]] std::vector<Index> sequence_ids(const SequenceOptions& options, const Tokenizer& tokenizer);

/// What people call a model's architecture: `Mamba` for `MambaForCausalLM`.
[[nodiscard]] std::string architecture_text(const std::string& name);
/// How tokens are joined when they are shown: words apart, letters and bytes close together.
[[nodiscard]] std::string separator_of(const Tokenizer& tokenizer);

}  // namespace implicit_attention::examples
