#include "model_input.hpp"

#include <filesystem>
#include <system_error>
#include <utility>

#include <CLI/CLI.hpp>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/models/load.hpp>

#include "command_line.hpp"

namespace implicit_attention::examples {

template <Real Scalar>
LoadedModel<Scalar> LoadedModel<Scalar>::open(const std::string& directory, const std::string& tokenizer) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored))
    raise(ErrorKind::file, message("--model: there is no folder ", directory, ", expected one with config.json and model.safetensors"));
  const Checkpoint<Scalar> checkpoint = open_checkpoint<Scalar>(directory);
  LanguageModel<Scalar> model = load_language_model<Scalar>(*checkpoint.source, checkpoint.configuration);
  std::optional<TokenizerKind> kind;
  if (!tokenizer.empty()) kind = tokenizer_kind(tokenizer);
  Tokenizer opened = Tokenizer::open(directory, model.vocabulary(), kind);
  return {directory, std::move(model), std::move(opened)};
}
template struct LoadedModel<float>;
template struct LoadedModel<double>;

void add_sequence_options(CLI::App& app, SequenceOptions& options) {
  app.add_option("--text", options.text, "what the model reads, as text")->option_text("TEXT");
  app.add_option("--tokens", options.tokens, "what the model reads, as token ids: 1,2,3")->option_text("IDS");
  app.add_option("--tokenizer", options.tokenizer, "how text becomes tokens; without it, by what the directory holds")
      ->check(CLI::IsMember({"bytes", "symbols", "words"}))
      ->option_text("bytes|symbols|words");
  app.add_option("--prepend", options.prepend, "a token by its name before the others, for example \"<cls>\"; may be repeated")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->option_text("TOKEN");
  app.add_option("--append", options.append, "the same after the others")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->option_text("TOKEN");
}

std::vector<Index> sequence_ids(const SequenceOptions& options, const Tokenizer& tokenizer) {
  if (options.text && options.tokens) raise(ErrorKind::value, "--text and --tokens exclude each other");
  if (!options.text && !options.tokens) raise(ErrorKind::value, "there is nothing to read: expected --text \"...\" or --tokens 1,2,3");
  std::vector<Index> ids;
  for (const std::string& token : options.prepend) ids.push_back(tokenizer.id(token));
  const std::vector<Index> middle = options.text ? tokenizer.encode(*options.text) : parse_index_list("--tokens", *options.tokens);
  ids.insert(ids.end(), middle.begin(), middle.end());
  for (const std::string& token : options.append) ids.push_back(tokenizer.id(token));
  tokenizer.check(ids);
  return ids;
}

std::string architecture_text(const std::string& name) {
  if (name == "MambaForCausalLM") return "Mamba";
  if (name == "RwkvForCausalLM") return "RWKV-4";
  if (name == "RecurrentGemmaForCausalLM") return "Griffin";
  return name;
}

std::string separator_of(const Tokenizer& tokenizer) {
  return tokenizer.kind() == TokenizerKind::bytes || tokenizer.kind() == TokenizerKind::symbols ? "" : " ";
}

}  // namespace implicit_attention::examples
