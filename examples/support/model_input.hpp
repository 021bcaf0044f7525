// A language model and the tokens it reads, as the command lines name them: --model, --text or --tokens, --tokenizer, --prepend, --append.
#pragma once

#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/models/load.hpp>

#include "command_line.hpp"

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

  /// Reads config.json, the weights and the vocabulary.
  [[nodiscard]] static LoadedModel open(const std::string& directory, const std::string& tokenizer) {
    std::error_code ignored;
    if (!std::filesystem::is_directory(directory, ignored))
      raise(ErrorKind::file, message("--model: there is no folder ", directory, ", expected one with config.json and model.safetensors"));
    const SafetensorsSource<Scalar> source(directory);
    LanguageModel<Scalar> model = load_language_model<Scalar>(source, read_configuration(directory));
    std::optional<TokenizerKind> kind;
    if (!tokenizer.empty()) kind = tokenizer_kind(tokenizer);
    Tokenizer opened = Tokenizer::open(directory, model.vocabulary(), kind);
    return {directory, std::move(model), std::move(opened)};
  }
};

/// The token ids that the options stand for.
[[nodiscard]] std::vector<Index> sequence_ids(const SequenceOptions& options, const Tokenizer& tokenizer);

/// How tokens are joined when they are shown: words apart, letters and bytes close together.
[[nodiscard]] std::string separator_of(const Tokenizer& tokenizer);

}  // namespace implicit_attention::examples
