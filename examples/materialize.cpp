// Writes the implicit attention of one layer: of a layer's weights and input, or of a layer of a whole language model.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/npy.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/rwkv4.hpp>

#include "support/canvas.hpp"
#include "support/command_line.hpp"
#include "support/heat_map.hpp"
#include "support/model_input.hpp"
#include "support/numbers.hpp"
#include "support/working.hpp"

namespace {

using namespace implicit_attention;
using namespace implicit_attention::examples;

struct Options {
  std::string arch, weights, input, positions;
  std::optional<std::string> prefix;
  std::string model;
  std::optional<Index> layer;
  SequenceOptions sequence;
  std::string terms = "all", channels = "all", rows = "all", reduce = "none", precision = "float32", out;
  std::size_t byte_limit = IMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT;
  bool reduce_given = false;

  [[nodiscard]] std::optional<ReductionKind> reduction() const {
    return reduce == "none" ? std::nullopt : std::optional(parse_reduction(reduce));
  }
};

/// A picture of more matrices than this could not be read.
constexpr Index most_panels = 16;

/// One sequence that has run through the layer.
template <Real Scalar>
struct Run {
  ImplicitAttention<Scalar> attention;
  Array<Scalar> x, y, out;
};

/// Everything that is written, sequence after sequence.
template <Real Scalar>
class Result {
 public:
  /// `batch` is nothing where the input was one sequence without a batch in front.
  Result(const Options& options, std::optional<Index> batch) : options_(options), batch_(batch) {}

  void add(const Run<Scalar>& run, Index sequence, const Executor& executor) {
    const ImplicitAttention<Scalar>& attention = run.attention;
    if (sequence == 0) prepare(attention, run.out.cols());
    Selection selection{channels_, rows_, options_.byte_limit, executor};
    const Index per_sequence = numbers_.rows() / batch_.value_or(1);
    View<Scalar> numbers(numbers_.row(sequence * per_sequence).data(), per_sequence, tokens_);
    if (reduction_)
      attention.reduce_into(numbers, {*reduction_, {}, {}}, selection);
    else
      attention.materialize_into(numbers, selection);
    const Matrix<Scalar> bias = attention.bias();
    for (std::size_t c = 0; c < channels_.size(); ++c)
      for (std::size_t r = 0; r < rows_.size(); ++r)
        bias_(sequence * static_cast<Index>(channels_.size()) + static_cast<Index>(c), static_cast<Index>(r)) =
            bias(rows_[r], channels_[c]);
    x_.middleRows(sequence * tokens_, tokens_) = run.x.matrix();
    y_.middleRows(sequence * tokens_, tokens_) = run.y.matrix();
    out_.middleRows(sequence * tokens_, tokens_) = run.out.matrix();
  }

  /// `labels`: one per token, or none.
  void write(const std::string& ending, const std::string& title, const std::vector<std::string>& labels) const {
    const auto shape = [&](std::vector<Index> axes) {
      if (batch_) axes.insert(axes.begin(), *batch_);
      return axes;
    };
    const Index channel_count = static_cast<Index>(channels_.size()), row_count = static_cast<Index>(rows_.size());
    const ArrayToWrite attention(numbers_.data(), shape(reduction_ ? std::vector<Index>{row_count, tokens_}
                                                                   : std::vector<Index>{channel_count, row_count, tokens_}));
    if (ending == ".npy") return write_npy(options_.out, attention);
    if (ending == ".png") return draw(title, labels);
    write_safetensors(options_.out, {{"attention", attention},
                                     {"bias", {bias_.data(), shape({channel_count, row_count})}},
                                     {"linear_input", {x_.data(), shape({tokens_, x_.cols()})}},
                                     {"y", {y_.data(), shape({tokens_, y_.cols()})}},
                                     {"out", {out_.data(), shape({tokens_, out_.cols()})}}});
  }

 private:
  void prepare(const ImplicitAttention<Scalar>& attention, Index width) {
    tokens_ = attention.tokens();
    channels_ = parse_indices("--channels", options_.channels).resolve(attention.channels(), "channel");
    rows_ = parse_indices("--rows", options_.rows).resolve(tokens_, "row");
    reduction_ = options_.reduction();
    const Index batch = batch_.value_or(1), matrices = batch * static_cast<Index>(channels_.size());
    if (!reduction_ && std::filesystem::path(options_.out).extension() == ".png" && matrices > most_panels) {
      if (options_.reduce_given)
        raise(ErrorKind::limit, message("--out: a picture has room for ", most_panels, " matrices, and these are ", matrices,
                                        "; choose fewer with --channels, or join them with --reduce mean-abs"));
      reduction_ = ReductionKind::mean_abs;
      std::fprintf(stderr, "materialize: %s matrices are more than a picture has room for: it shows their mean of absolute values\n",
                   grouped(matrices).c_str());
    }
    const Index rows = reduction_ ? batch * static_cast<Index>(rows_.size()) : matrices * static_cast<Index>(rows_.size());
    check_byte_limit("attention", {rows, tokens_}, sizeof(Scalar), options_.byte_limit);
    numbers_.resize(rows, tokens_);
    bias_.resize(matrices, static_cast<Index>(rows_.size()));
    x_.resize(batch * tokens_, attention.channels());
    y_.resize(batch * tokens_, attention.channels());
    out_.resize(batch * tokens_, width);
  }

  void draw(const std::string& title, const std::vector<std::string>& labels) const {
    HeatMap map;
    map.title = title;
    if (reduction_) map.value_name = reduction_text(*reduction_);
    const Index panels = numbers_.rows() / static_cast<Index>(rows_.size());
    for (Index p = 0; p < panels; ++p) {
      Panel panel;
      const Index per_sequence = panels / batch_.value_or(1);
      if (batch_) panel.subtitle = message("sequence ", p / per_sequence);
      if (!reduction_) panel.subtitle += message(batch_ ? ", channel " : "channel ", channels_[static_cast<std::size_t>(p % per_sequence)]);
      panel.values = numbers_.middleRows(p * static_cast<Index>(rows_.size()), static_cast<Index>(rows_.size())).template cast<double>();
      panel.row_tokens = rows_;
      if (!labels.empty()) {
        panel.column_labels = labels;
        for (const Index row : rows_) panel.row_labels.push_back(labels[static_cast<std::size_t>(row)]);
      }
      map.panels.push_back(std::move(panel));
    }
    map.caption = message("terms: ", Terms::parse(options_.terms).text());
    warn_of_missing_glyphs("materialize", write_heat_map(options_.out, map).missing_glyphs);
  }

  const Options& options_;
  std::optional<Index> batch_;
  Index tokens_ = 0;
  std::vector<Index> channels_, rows_;
  std::optional<ReductionKind> reduction_;
  Matrix<Scalar> numbers_;      // (batch * channels * rows, tokens), or (batch * rows, tokens)
  Matrix<Scalar> bias_;         // (batch * channels, rows)
  Matrix<Scalar> x_, y_, out_;  // (batch * tokens, ...)
};

// --- One layer, from its weights and its input --------------------------------------------------------------------------

/// The tensor of the layer's input: the one named, or one of the usual names, or the only one there is.
std::string input_tensor(const SafetensorsFile& file, const std::string& named) {
  if (!named.empty()) return named;
  for (const char* usual : {"input.hidden_states", "hidden_states"})
    if (file.find(usual)) return usual;
  if (file.tensors().size() == 1) return file.tensors().begin()->first;
  std::vector<std::string> names;
  for (const auto& [name, info] : file.tensors()) names.push_back(name);
  raise(ErrorKind::value, message("--input: ", file.where(), " holds ", names.empty() ? "no tensors" : some_of(names),
                                  "; name the input as ", file.where(), ":TENSOR"));
}

/// What stands before a layer's tensors: what the option says, with or without its last dot; without the option, the only prefix there is.
template <Real Scalar>
std::string weights_prefix(const Options& options, const TensorSource<Scalar>& source) {
  const std::string telling = options.arch == "mamba" ? "A_log" : options.arch == "rwkv4" ? "time_decay" : "rg_lru.recurrent_param";
  std::vector<std::string> prefixes;
  for (const std::string& name : source.names())
    if (name == telling ||
        (name.size() > telling.size() && name.compare(name.size() - telling.size() - 1, std::string::npos, "." + telling) == 0))
      prefixes.push_back(name.substr(0, name.size() - telling.size()));
  if (options.prefix) {
    for (const std::string& prefix : {*options.prefix, *options.prefix + "."})
      if (source.has(prefix + telling)) return prefix;
  } else if (prefixes.size() == 1) {
    return prefixes.front();
  }
  if (prefixes.empty())
    raise(ErrorKind::file, message(source.where(), ": there is no tensor ", options.prefix.value_or(""), telling,
                                   ", expected the weights of a ", options.arch, " layer"));
  for (std::string& prefix : prefixes) prefix = prefix.empty() ? "\"\"" : prefix;
  raise(ErrorKind::value, message("--prefix: ",
                                  options.prefix ? message("no ", options.arch, " layer has its weights below ", *options.prefix)
                                                 : message("several ", options.arch, " layers are in ", source.where()),
                                  "; there are ", some_of(prefixes)));
}

/// The positions of all sequences, (batch * tokens); none where the option is not there.
std::vector<Index> read_positions(const Options& options, Index batch, Index tokens) {
  if (options.positions.empty()) return {};
  const FileAndTensor where = parse_file_and_tensor(options.positions);
  if (where.tensor.empty())
    raise(ErrorKind::value, message("--positions: \"", options.positions, "\" names no tensor, expected FILE:TENSOR"));
  const SafetensorsFile file(where.file);
  const std::vector<Index>& shape = file.info(where.tensor).shape;
  const bool fits = shape == std::vector<Index>{batch, tokens} || (batch == 1 && shape == std::vector<Index>{tokens});
  if (!fits)
    raise(ErrorKind::shape, message(file.where(), ": tensor ", where.tensor, " is ", shape_text(shape), ", expected ",
                                    shape_text({batch, tokens}), " = (batch, tokens)"));
  const auto numbers = file.read_integers(where.tensor);
  std::vector<Index> positions(numbers.begin(), numbers.end());
  for (const Index position : positions)
    if (position < 0)
      raise(ErrorKind::value, message(file.where(), ": tensor ", where.tensor, " holds position ", position, ", expected at least 0"));
  return positions;
}

template <class Layer>
void materialize_layer(const Options& options, const std::string& ending, const Layer& layer) {
  using Scalar = typename Layer::Scalar;
  const FileAndTensor where = parse_file_and_tensor(options.input);
  const SafetensorsFile file(where.file);
  const std::string tensor = input_tensor(file, where.tensor);
  const std::vector<Index>& shape = file.info(tensor).shape;
  if ((shape.size() != 2 && shape.size() != 3) || shape.back() != layer.width() || file.info(tensor).count == 0)
    raise(ErrorKind::shape, message(file.where(), ": tensor ", tensor, " is ", shape_text(shape), ", expected (tokens, ", layer.width(),
                                    ") or (batch, tokens, ", layer.width(), "), the width of the weights, with at least one token"));
  const Array<Scalar> input = file.read<Scalar>(tensor);
  std::optional<Index> batch;
  if (shape.size() == 3) batch = shape.front();
  const Index tokens = shape[shape.size() - 2];
  const std::vector<Index> positions = read_positions(options, batch.value_or(1), tokens);

  Work work("materialize", batch.value_or(1));
  Result<Scalar> result(options, batch);
  for (Index sequence = 0; sequence < batch.value_or(1); ++sequence) {
    const ConstView<Scalar> u(input.row(sequence * tokens), tokens, layer.width());
    const auto run = [&] {
      if constexpr (requires { layer.activations(u, positions); })
        if (!positions.empty()) {
          const auto first = positions.begin() + sequence * tokens;
          return layer.activations(u, std::vector<Index>(first, first + tokens));
        }
      return layer.activations(u);
    };
    const typename Layer::Activations act = run();
    work.begin_piece();
    result.add({layer.implicit_attention(act, Terms::parse(options.terms)), act.x, act.y, act.out}, sequence, work.executor());
  }
  result.write(ending, message(options.arch == "mamba" ? "Mamba" : options.arch == "rwkv4" ? "RWKV-4" : "Griffin", " layer"), {});
}

template <Real Scalar>
void materialize_weights(const Options& options, const std::string& ending) {
  const SafetensorsSource<Scalar> source(options.weights);
  const PrefixedTensors<Scalar> tensors(source, weights_prefix(options, source));
  if (options.arch == "mamba") return materialize_layer(options, ending, Mamba<Scalar>::from_tensors(tensors));
  if (options.arch == "rwkv4") return materialize_layer(options, ending, Rwkv4<Scalar>::from_tensors(tensors));
  materialize_layer(options, ending, Griffin<Scalar>::from_tensors(tensors));
}

// --- One layer of a language model --------------------------------------------------------------------------------------

template <Real Scalar>
void materialize_model(const Options& options, const std::string& ending) {
  std::vector<Index> ids;
  const LoadedModel<Scalar> loaded = LoadedModel<Scalar>::open(
      options.model, options.sequence.tokenizer, [&](const Tokenizer& opened) { ids = sequence_ids(options.sequence, opened); });
  const LanguageModel<Scalar>& model = loaded.model;
  const Index layer = *options.layer;
  if (layer < 0 || layer >= model.layer_count())
    raise(ErrorKind::value,
          message("--layer: ", layer, " is out of range, expected 0 to ", model.layer_count() - 1, " for ", options.model));
  loaded.tokenizer.check(ids);

  Work work("materialize", 1);
  ForwardOptions forward;
  forward.keep = Keep::residuals;
  forward.logit_positions = Indices::last();
  const LayerPass<Scalar> pass = model.layer_pass(model.forward(ids, forward), layer);
  Result<Scalar> result(options, std::nullopt);
  work.begin_piece();
  result.add({model.implicit_attention(pass, layer, Terms::parse(options.terms)), pass.x(), pass.y(), pass.out()}, 0, work.executor());
  result.write(ending, message(architecture_text(model.name()), ", layer ", layer), loaded.tokenizer.labels(ids));
}

template <Real Scalar>
void materialize(const Options& options, const std::string& ending) {
  options.model.empty() ? materialize_weights<Scalar>(options, ending) : materialize_model<Scalar>(options, ending);
}

// --- The command line ---------------------------------------------------------------------------------------------------

void check(const Options& options, bool layer_options, bool model_options) {
  const bool layer_form = layer_options && !model_options, model_form = model_options && !layer_options;
  if (layer_options && model_options)
    raise(ErrorKind::value,
          "--arch, --weights, --input and --model, --layer, --text exclude each other: either a layer's weights, or a model");
  if (!layer_form && !model_form)
    raise(ErrorKind::value,
          "expected --arch, --weights and --input, or --model, --layer and --text or --tokens; materialize --help has an example of each");
  if (layer_form) {
    if (options.arch.empty()) raise(ErrorKind::value, "--arch is missing, expected mamba, rwkv4 or griffin");
    if (options.weights.empty()) raise(ErrorKind::value, "--weights is missing, expected a safetensors file");
    if (options.input.empty()) raise(ErrorKind::value, "--input is missing, expected FILE or FILE:TENSOR");
    if (!options.positions.empty() && options.arch != "griffin")
      raise(ErrorKind::value, message("--positions: ", options.arch, " has none, only griffin has"));
  } else {
    if (options.model.empty()) raise(ErrorKind::value, "--model is missing, expected a folder with config.json and model.safetensors");
    if (!options.layer) raise(ErrorKind::value, "--layer is missing, expected a number from 0");
  }
}

}  // namespace

int main(int argument_count, char** arguments) {
  Options options;
  CLI::App app("Writes the implicit attention of one layer: A, with A x + bias = y exactly, as numbers or as a picture.", "materialize");
  app.add_option("--arch", options.arch, "the architecture of the layer")
      ->check(CLI::IsMember({"mamba", "rwkv4", "griffin"}))
      ->option_text("mamba|rwkv4|griffin");
  app.add_option("--weights", options.weights, "safetensors with the layer's weights, under their public names")->option_text("FILE");
  app.add_option("--prefix", options.prefix, "what stands before the names, for example backbone.layers.0.mixer.")->option_text("PREFIX");
  app.add_option("--input", options.input,
                 "the layer's input, (tokens, width) or (batch, tokens, width); without a name: input.hidden_states, hidden_states, or the "
                 "only tensor")
      ->option_text("FILE[:TENSOR]");
  app.add_option("--positions", options.positions, "Griffin: positions, (tokens) or (batch, tokens); a document begins where they are 0")
      ->option_text("FILE:TENSOR");
  app.add_option("--model", options.model, "instead of all these: a folder with config.json and model.safetensors")->option_text("DIR");
  app.add_option("--layer", options.layer, "which layer of the model, from 0")->option_text("N");
  add_sequence_options(app, options.sequence);
  app.add_option("--terms", options.terms,
                 "which terms of the unified form: all, published (arXiv 2405.16504), recurrence (arXiv 2403.01590), or a list of "
                 "recurrence, gate, "
                 "activation, convolution, normalization, skip, bias")
      ->option_text("all|published|recurrence|LIST");
  app.add_option("--channels", options.channels, "which channels: all, or a list such as 0,5-7")->option_text("all|LIST");
  app.add_option("--rows", options.rows, "which query tokens: all, last, or a list")->option_text("all|last|LIST");
  const CLI::Option* reduce = app.add_option("--reduce", options.reduce, "join the channels into one map")
                                  ->check(CLI::IsMember({"none", "mean", "mean-abs", "mean-positive"}))
                                  ->option_text("none|mean|mean-abs|mean-positive");
  app.add_option("--precision", options.precision, "what is computed and written in (float32)")
      ->check(CLI::IsMember({"float32", "float64"}))
      ->option_text("float32|float64");
  app.add_option("--byte-limit", options.byte_limit, "the largest attention that may be allocated (4G)")
      ->transform(CLI::AsSizeValue(false))
      ->option_text("SIZE");
  app.add_option("--out", options.out,
                 "what is written: .safetensors (attention, bias, linear_input, y, out), .npy (attention), or .png (a heat map; "
                 "more than 16 matrices are shown as their mean of absolute values)")
      ->option_text("FILE")
      ->required();
  app.footer(
      "Examples:\n"
      "  materialize --arch mamba --weights model.safetensors --prefix backbone.layers.0.mixer. --input states.safetensors:u \\\n"
      "              --precision float64 --out attention.safetensors\n"
      "  materialize --model examples/models/mamba --layer 1 --text \"a gripping film <cls>\" --reduce mean-abs --out map.png\n");

  return run_program(app, argument_count, arguments, [&] {
    options.reduce_given = reduce->count() > 0;
    const auto given = [&](std::initializer_list<const char*> names) {
      return std::any_of(names.begin(), names.end(), [&](const char* name) { return app.count(name) > 0; });
    };
    check(options, given({"--arch", "--weights", "--prefix", "--input", "--positions"}),
          given({"--model", "--layer", "--text", "--tokens", "--tokenizer", "--prepend", "--append"}));
    (void)Terms::parse(options.terms);
    (void)parse_indices("--channels", options.channels);
    (void)parse_indices("--rows", options.rows);
    const std::string ending = checked_output("--out", options.out, {".safetensors", ".npy", ".png"});
    options.precision == "float64" ? materialize<double>(options, ending) : materialize<float>(options, ending);
  });
}
