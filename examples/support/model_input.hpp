// A language model and the tokens it reads, as the command lines name them: --model, --text or --tokens, --tokenizer, --prepend, --append.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/core/watched_tensors.hpp>
#include <implicit_attention/io/tokenizer.hpp>
#include <implicit_attention/models/language_model.hpp>

namespace CLI {
class App;
}

namespace implicit_attention::examples {

/// What the options say.
struct SequenceOptions {
  std::optional<std::string> text, tokens;   ///< one of the two; `@FILE` and `-` as in their help
  std::string tokenizer;                     ///< empty: by what the model's directory holds
  std::vector<std::string> prepend, append;  ///< tokens by name, such as `<cls>`
  bool chat = false;                         ///< the text is one turn of a conversation
};

/// Adds `--tokenizer` alone.
void add_tokenizer_option(CLI::App& app, std::string& tokenizer);
/// Adds `--prepend` and `--append`, tokens by name, each as often as they are given.
void add_surrounding_options(CLI::App& app, std::vector<std::string>& prepend, std::vector<std::string>& append,
                             const std::string& prepend_help, const std::string& append_help);
/// Adds the options to a program's.
void add_sequence_options(CLI::App& app, SequenceOptions& options);

/// What can be checked of a question before weights are read. Fails as it likes.
using BeforeWeights = std::function<void(const Tokenizer& tokenizer)>;

/// A model read from a directory as Hugging Face lays it out.
template <Real Scalar>
struct LoadedModel {
  std::string directory;
  LanguageModel<Scalar> model;
  Tokenizer tokenizer;

  /// Opens the tokenizer (as in SequenceOptions), tells it the vocabulary's size by the shape of the embedding, calls `before_weights`, and
  /// reads the weights: errors in a text or its tokens are reported before the long work. Where no tensor's name is an embedding's,
  /// weights come first. Fails (value) where there is no `layer`, that of --layer; before the weights, too, if their names tell of layers.
  [[nodiscard]] static LoadedModel open(const std::string& directory, const std::string& tokenizer, std::optional<Index> layer,
                                        const BeforeWeights& before_weights);
};
extern template struct LoadedModel<float>;
extern template struct LoadedModel<double>;

/// The mean of a model's embeddings, (1, width): where a path of integrated gradients may begin.
template <Real Scalar>
[[nodiscard]] RowVector<Scalar> mean_embedding(const LanguageModel<Scalar>& model) {
  return model.parts().embedding.matrix().colwise().mean();
}

/// Fails (value) where a tensor of the checkpoint holds a NaN or an infinity, naming it and the place. All tensors are read for that, so it
/// is asked once a result is not finite.
template <Real Scalar>
void refuse_weights_not_finite(const std::string& path);
extern template void refuse_weights_not_finite<float>(const std::string& path);
extern template void refuse_weights_not_finite<double>(const std::string& path);
/// The same of the tensors that were read and have at most 2^18 numbers (rates, biases, norms), but for minus infinity: an infinite rate
/// can leave every result finite.
template <Real Scalar>
void refuse_small_weights_not_finite(const WatchedTensors<Scalar>& read);
extern template void refuse_small_weights_not_finite(const WatchedTensors<float>&);
extern template void refuse_small_weights_not_finite(const WatchedTensors<double>&);

/// The id of a token by its name; fails (value) where there is none, naming the option and the token that is probably meant.
[[nodiscard]] Index token_named(std::string_view option, const std::string& name, const Tokenizer& tokenizer);
/// The tokens of one text, or of ids, with what --chat, --prepend and --append put around. Fails (value) on ids that the model does not
/// take.
[[nodiscard]] std::vector<Index> text_ids(const SequenceOptions& options, std::string_view text, const Tokenizer& tokenizer);
[[nodiscard]] std::vector<Index> surrounded_ids(const SequenceOptions& options, const std::vector<Index>& ids, const Tokenizer& tokenizer);

/// The token ids that the options stand for: `--text` and `--tokens` as they are, from a file (`@FILE`) or standard input (`-`).
[[nodiscard]] std::vector<Index> sequence_ids(const SequenceOptions& options, const Tokenizer& tokenizer);

/// What people call a model's architecture: `Mamba` for `MambaForCausalLM`.
[[nodiscard]] std::string architecture_text(const std::string& name);
/// How tokens are joined when they are shown: words apart, letters and bytes close together.
[[nodiscard]] std::string separator_of(const Tokenizer& tokenizer);

}  // namespace implicit_attention::examples
