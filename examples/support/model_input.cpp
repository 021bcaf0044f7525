#include "model_input.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <numeric>
#include <string_view>
#include <system_error>
#include <utility>

#include <CLI/CLI.hpp>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/core/stored_rows.hpp>
#include <implicit_attention/io/folder.hpp>
#include <implicit_attention/io/npy_reader.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/models/load.hpp>

#include "chat.hpp"
#include "command_line.hpp"
#include "nearest_name.hpp"
#include "progress.hpp"

namespace implicit_attention::examples {

namespace {

/// All of a stream, for a message `name`. A pipe has no size to be asked for; a device may never end, and no model reads a text that long.
std::string read_all(std::FILE* stream, const std::string& name) {
  constexpr std::size_t most = std::size_t{1} << 28U;
  std::string bytes;
  std::array<char, 65536> block{};
  for (std::size_t count = 0; (count = std::fread(block.data(), 1, block.size(), stream)) > 0;) {
    if (bytes.size() + count > most) detail::raise(ErrorKind::value, name, " is longer than the ", most, " bytes that are read");
    bytes.append(block.data(), count);
  }
  if (std::ferror(stream) != 0) detail::raise(ErrorKind::file, name, " cannot be read");
  return bytes;
}

/// What an option's value stands for: itself, `@FILE`, or `-`. `@@` is one @ and no file.
std::string option_value(const std::string& option, const std::string& given) {
  if (given == "-") {
    static const std::string all = read_all(stdin, option + ": standard input");  // several models are asked about one text
    return all;
  }
  if (!given.starts_with('@')) return given;
  if (given.starts_with("@@")) return given.substr(1);
  const std::string path = given.substr(1), text_too = option == "--text" ? " (text that begins with @ is written with two)" : "";
  if (path.empty()) detail::raise(ErrorKind::value, option, ": @ is without the name of a file", text_too);
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) detail::raise(ErrorKind::file, option, ": ", path, " is a folder, expected a file");
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) detail::raise(ErrorKind::file, option, ": ", path, " cannot be opened: ", std::generic_category().message(errno), text_too);
  return read_all(file.get(), detail::message(option, ": ", path));
}

/// Text from elsewhere: without a byte order mark, and without the line end that editors put behind the last line.
std::string given_text(const std::string& given) {
  std::string text = option_value("--text", given);
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF"))
    detail::raise(ErrorKind::value, "--text: the text is UTF-16, expected UTF-8");
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  const bool literal = given != "-" && (!given.starts_with('@') || given.starts_with("@@"));
  if (!literal && text.ends_with('\n')) text.pop_back();
  if (!literal && text.ends_with('\r')) text.pop_back();
  return text;
}

/// The one row of `[[5, 6, 7]]`, as a batch of one text is printed; any other text as it is. Fails (value) on several rows.
std::string_view without_batch(std::string_view text) {
  constexpr std::string_view blank = " \t\r\n";
  const auto bracket = [&](std::size_t from) {
    const std::size_t at = text.find_first_not_of(blank, from);
    return at != std::string_view::npos && text[at] == '[' ? at : std::string_view::npos;
  };
  const std::size_t outer = bracket(0), inner = outer == std::string_view::npos ? outer : bracket(outer + 1);
  if (inner == std::string_view::npos) return text;
  if (const auto rows = std::count(text.begin(), text.end(), '[') - 1; rows > 1)
    detail::raise(ErrorKind::value, "--tokens: there are ", rows, " lists in the list, expected one text's ids, for example [[5, 6, 7]]");
  const std::size_t last = text.find_last_not_of(blank), end = text.find_last_not_of(blank, last - 1);
  if (text[last] != ']' || end <= inner || text[end] != ']') return text;
  return text.substr(inner, end + 1 - inner);
}

std::vector<Index> tokens_of(const std::string& given) {
  const std::string text = option_value("--tokens", given);
  if (is_npy(text)) return parse_npy_integers(text, "--tokens");
  return parse_index_list("--tokens", without_batch(std::string_view(text).substr(text.starts_with("\xEF\xBB\xBF") ? 3 : 0)));
}

/// The rows of the embedding, by its shape alone; nothing where no tensor's name tells that it is the one.
template <Real Scalar>
std::optional<Index> embedding_rows(const TensorSource<Scalar>& source, const std::vector<std::string>& names) {
  constexpr std::array<std::string_view, 4> endings{"embed_tokens.weight", "embeddings.weight", "embedding.weight", "emb.weight"};
  std::optional<Index> rows;
  for (const std::string& name : names) {
    const bool is_embedding = std::any_of(endings.begin(), endings.end(), [&](std::string_view ending) {
      return name.ends_with(ending) && (name.size() == ending.size() || name[name.size() - ending.size() - 1] == '.');
    });
    if (!is_embedding || name.starts_with("mtp.")) continue;
    const std::optional<std::vector<Index>> shape = source.shape(name);
    if (rows || !shape || shape->size() != 2 || shape->front() == 0) return std::nullopt;
    rows = shape->front();
  }
  return rows;
}

/// One more than the largest N of names with `layers.N.` or `blocks.N.`; nothing where there is none.
std::optional<Index> layers_named(const std::vector<std::string>& names) {
  Index layers = 0;
  for (const std::string& name : names)
    for (const std::string_view word : {"layers.", "blocks."}) {
      const std::size_t at = name.find(word);
      if (at == std::string::npos || (at != 0 && name[at - 1] != '.')) continue;
      Index layer = 0;
      const char* const end = name.data() + name.size();
      const auto read = std::from_chars(name.data() + at + word.size(), end, layer);
      if (read.ec == std::errc() && read.ptr != end && *read.ptr == '.' && layer >= 0 && layer < 100'000)
        layers = std::max(layers, layer + 1);
    }
  return layers > 0 ? std::optional<Index>(layers) : std::nullopt;
}

/// A tokenizer with more tokens than the model is mostly another model's, whose text would be read as other tokens. It is no error:
/// fine-tuned models come with a padding token beyond the embedding, and a text with such a token is refused.
void doubt_foreign(const std::string& directory, const Tokenizer& tokenizer) {
  if (const std::optional<Index> largest = tokenizer.largest_id(); largest && *largest >= tokenizer.vocabulary_size())
    std::fprintf(stderr, "%s: the tokenizer has ids up to %td, the model 0 to %td: is it another model's?\n", printable(directory).c_str(),
                 *largest, tokenizer.vocabulary_size() - 1);
}

/// What beside a path that is not there has nearly its name.
std::string neighbour_hint(const std::filesystem::path& path) {
  const std::filesystem::path wanted = path.has_filename() ? path : path.parent_path();  // a slash may stand at the end
  const std::filesystem::path folder = wanted.parent_path();
  std::error_code ignored;
  const std::vector<std::string> names = detail::names_in(folder.empty() ? "." : folder, ignored);
  return perhaps(wanted.filename().string(), names, folder.empty() ? std::string() : (folder / "").string());
}

}  // namespace

template <Real Scalar>
LoadedModel<Scalar> LoadedModel<Scalar>::open(const std::string& directory, const std::string& tokenizer, std::optional<Index> layer,
                                              const BeforeWeights& before_weights) {
  std::error_code why;
  if (directory.empty())
    detail::raise(ErrorKind::value, "--model: the name is empty, expected a folder as it was downloaded, or one file of weights");
  if (!std::filesystem::exists(directory, why) && why != std::errc::permission_denied)  // which the reader says
    detail::raise(ErrorKind::file, "--model: there is no folder ", directory, ", nor a file of that name", neighbour_hint(directory),
                  ", expected a folder as it was downloaded, or one file of weights (.safetensors, .bin, .pth, .gguf)");
  if (directory.ends_with(".json") && !directory.ends_with(".index.json") && std::filesystem::is_regular_file(directory, why))
    detail::raise(ErrorKind::value, "--model: ", directory, " holds no weights, expected the folder that it lies in, or a file of weights");
  ProgressBar reading(detail::message("reading ", directory), 0);
  const Checkpoint<Scalar> checkpoint = open_checkpoint<Scalar>(directory);
  Tokenizer opened = Tokenizer::open(checkpoint.tokenizer, tokenizer);
  const std::vector<std::string> names = checkpoint.source->names();
  const std::optional<Index> rows = embedding_rows(*checkpoint.source, names), layers = layers_named(names);
  const auto check_layer = [&](Index count) {
    if (layer && (*layer < 0 || *layer >= count))
      detail::raise(ErrorKind::value, "--layer: ", *layer, " is out of range, expected 0 to ", count - 1, " for ", directory);
  };
  if (rows) {
    opened.fit(*rows);
    doubt_foreign(directory, opened);
    before_weights(opened);
    if (layers) check_layer(*layers);
  }
  const WatchedTensors<Scalar> watched(*checkpoint.source);
  LanguageModel<Scalar> model = load_language_model<Scalar>(watched, checkpoint.configuration);
  refuse_small_weights_not_finite(watched);
  opened.fit(model.vocabulary());
  if (!rows) doubt_foreign(directory, opened);
  if (!rows) before_weights(opened);
  check_layer(model.layer_count());
  return {directory, std::move(model), std::move(opened)};
}
namespace {
/// `rates`: a number of minus infinity is taken, as that of a rate of zero.
template <Real Scalar>
void refuse_not_finite(const TensorSource<Scalar>& source, const std::string& name, bool rates) {
  Array<Scalar> numbers;
  try {
    numbers = source.read(name);
  } catch (const Error&) {
    return;  // of a type that is not read here: no result depends on it
  }
  for (Index row = 0; row < numbers.rows(); ++row) {
    const RowVector<Scalar> one = detail::row_of(numbers, row);
    if (detail::all_finite(one)) continue;
    for (Index column = 0; column < one.size(); ++column)
      if (!std::isfinite(one[column]) && !(rates && one[column] == -std::numeric_limits<Scalar>::infinity()))
        detail::raise(ErrorKind::value, source.where(), ": tensor ", printable(source.name_in_file(name)), " holds ",
                      detail::not_finite_name(one[column]), " at (", row, ", ", column, "), expected finite numbers");
  }
}
}  // namespace
template <Real Scalar>
void refuse_weights_not_finite(const std::string& path) {
  const Checkpoint<Scalar> checkpoint = open_checkpoint<Scalar>(path, true);
  for (const std::string& name : checkpoint.source->names()) refuse_not_finite(*checkpoint.source, name, false);
}
template <Real Scalar>
void refuse_small_weights_not_finite(const WatchedTensors<Scalar>& read) {
  constexpr double most = 1 << 18;
  const std::vector<std::string> unused = read.unused();
  for (const std::string& name : read.names()) {
    if (std::binary_search(unused.begin(), unused.end(), name)) continue;
    const std::vector<Index> shape = read.shape(name).value_or(std::vector<Index>());
    const double numbers =
        std::accumulate(shape.begin(), shape.end(), 1.0, [](double product, Index axis) { return product * static_cast<double>(axis); });
    if (numbers <= most) refuse_not_finite<Scalar>(read, name, true);
  }
}
template void refuse_weights_not_finite<float>(const std::string& path);
template void refuse_weights_not_finite<double>(const std::string& path);
template void refuse_small_weights_not_finite(const WatchedTensors<float>&);
template void refuse_small_weights_not_finite(const WatchedTensors<double>&);

template struct LoadedModel<float>;
template struct LoadedModel<double>;

void add_tokenizer_option(CLI::App& app, std::string& tokenizer) {
  app.add_option("--tokenizer", tokenizer,
                 "how text becomes tokens; without it, what lies beside the model decides: tokenizer.json, rwkv_vocab_*.txt, merges.txt or "
                 "vocab.json")
      ->check(not_empty())
      ->option_text("FILE|DIR|bytes|symbols|words");
}

void add_surrounding_options(CLI::App& app, std::vector<std::string>& prepend, std::vector<std::string>& append,
                             const std::string& prepend_help, const std::string& append_help) {
  const auto add = [&](const char* option, std::vector<std::string>& tokens, const std::string& help) {
    app.add_option(option, tokens, help)->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)->option_text("TOKEN");
  };
  add("--prepend", prepend, prepend_help);
  add("--append", append, append_help);
}

void add_sequence_options(CLI::App& app, SequenceOptions& options) {
  app.add_option("--text", options.text, "what the model reads, as text; @FILE: what a file holds, -: standard input")
      ->option_text("TEXT|@FILE|-");
  app.add_option("--tokens", options.tokens, "what the model reads, as token ids: 1,2,3 or [1, 2, 3]; @FILE (.npy too), -: standard input")
      ->option_text("IDS|@FILE|-");
  app.add_flag(
      "--chat", options.chat,
      "the text is what a user says to a model that answers: put into its template (ChatML, Llama 3, Gemma), without a system prompt");
  add_tokenizer_option(app, options.tokenizer);
  add_surrounding_options(app, options.prepend, options.append,
                          "a token by its name before the others, for example \"<cls>\"; may be repeated", "the same after the others");
}

Index token_named(std::string_view option, const std::string& name, const Tokenizer& tokenizer) {
  try {
    return tokenizer.id(name);
  } catch (const Error& error) {
    std::vector<std::string> names;
    for (const auto& [token, id] : tokenizer.vocabulary().ids()) names.push_back(token);
    if (names.empty())  // one by one: labels of tokens in a row join bytes that stand beside each other by chance
      for (Index id = 0; id < tokenizer.vocabulary_size(); ++id)
        if (std::string label = tokenizer.label(id); tokenizer.find(label)) names.push_back(std::move(label));
    detail::raise(error.kind(), option, ": ", error.what(), perhaps(name, names));
  }
}

std::vector<Index> surrounded_ids(const SequenceOptions& options, const std::vector<Index>& ids, const Tokenizer& tokenizer) {
  std::vector<Index> all;
  for (const std::string& token : options.prepend) all.push_back(token_named("--prepend", token, tokenizer));
  all.insert(all.end(), ids.begin(), ids.end());
  for (const std::string& token : options.append) all.push_back(token_named("--append", token, tokenizer));
  tokenizer.check(all);
  return all;
}

/// What the tokenizer makes of a text; where there is none, the error names this program's ways out.
std::vector<Index> encoded(std::string_view text, const Tokenizer& tokenizer) {
  if (tokenizer.kind() != TokenizerKind::none) return tokenizer.encode(text);
  try {
    return tokenizer.encode(text);
  } catch (const Error& error) {
    detail::raise(error.kind(), error.what(), " (--tokens, --tokenizer)");
  }
}

std::vector<Index> text_ids(const SequenceOptions& options, std::string_view text, const Tokenizer& tokenizer) {
  return surrounded_ids(options, options.chat ? chat_ids(text, tokenizer) : encoded(text, tokenizer), tokenizer);
}

std::vector<Index> sequence_ids(const SequenceOptions& options, const Tokenizer& tokenizer) {
  if (options.text && options.tokens) detail::raise(ErrorKind::value, "--text and --tokens exclude each other");
  if (!options.text && !options.tokens)
    detail::raise(ErrorKind::value, "there is nothing to read: expected --text \"...\" or --tokens 1,2,3");
  if (options.chat && options.tokens)
    detail::raise(ErrorKind::value, "--chat: a turn is made of text, expected --text instead of --tokens");
  if (options.text) return text_ids(options, given_text(*options.text), tokenizer);
  return surrounded_ids(options, tokens_of(*options.tokens), tokenizer);
}

std::string architecture_text(const std::string& name) {
  if (name.starts_with("Qwen3Next")) return "Qwen3-Next";  // one family of two
  if (name.starts_with("Qwen3_5")) return "Qwen3.5";
  for (const ModelFamily<float>& family : model_families<float>())
    if (family.architecture == name) return std::string(family.title);
  return name;
}

std::string separator_of(const Tokenizer& tokenizer) {
  return tokenizer.kind() == TokenizerKind::words || tokenizer.kind() == TokenizerKind::none ? " " : "";
}

}  // namespace implicit_attention::examples
