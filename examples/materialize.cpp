// Writes the implicit attention of one layer: of a layer's weights and input, or of a layer of a whole language model.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <cmath>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/core/watched_tensors.hpp>
#include <implicit_attention/io/config.hpp>
#include <implicit_attention/io/npy.hpp>
#include <implicit_attention/io/open_checkpoint.hpp>
#include <implicit_attention/io/safetensors.hpp>
#include <implicit_attention/io/safetensors_writer.hpp>
#include <implicit_attention/io/text.hpp>
#include <implicit_attention/models/families.hpp>

#include "support/canvas.hpp"
#include "support/command_line.hpp"
#include "support/heat_map.hpp"
#include "support/model_input.hpp"
#include "support/nearest_name.hpp"
#include "support/numbers.hpp"
#include "support/working.hpp"

namespace {

using namespace implicit_attention;
using namespace implicit_attention::examples;

struct Options {
  std::string arch, weights, input, positions, config;
  std::optional<std::string> prefix;
  std::string model;
  std::optional<Index> layer;
  SequenceOptions sequence;
  std::string terms = "all", channels = "all", rows = "all", heads, reduce = "none", precision = "float32", out;
  std::size_t byte_limit = IMPLICIT_ATTENTION_DEFAULT_BYTE_LIMIT;
  int threads = 0;  ///< 0: all cores that the process may use
  bool channels_given = false, reduce_given = false;

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
  std::optional<ImplicitAttention<Scalar>> bare;  ///< what --heads reads, where that is another operator than `attention`
  Array<Scalar> x, y, out;
  Index first = 0, tokens = 0;  ///< where it stands among the tokens of a padded sequence, and how many those are

  [[nodiscard]] const ImplicitAttention<Scalar>& of_heads() const { return bare ? *bare : attention; }
};

template <Real Scalar>
[[nodiscard]] Run<Scalar> run_of(const MixerRun<Scalar>& mixer, const Options& options, Index first, Index tokens) {
  ImplicitAttention<Scalar> attention = mixer.attention(Terms::parse(options.terms));
  // MLLA gives its matrices explicitly, one per channel, with all terms included; --heads needs those of the recurrence alone.
  std::optional<ImplicitAttention<Scalar>> bare;
  if (!options.heads.empty() && attention.form().recurrence.given() != nullptr) bare = mixer.attention(Terms::recurrence());
  return {std::move(attention),
          std::move(bare),
          mixer.reported_input.empty() ? mixer.x.numbers : mixer.reported_input,
          mixer.y.numbers,
          mixer.out.numbers,
          first,
          tokens};
}

/// Arrays of all sequences, one below the other, under the names they are written as.
template <Real Scalar>
class Stacked {
 public:
  /// Adds a sequence's numbers; `axes` is their shape without the batch.
  void add(const std::string& name, const Matrix<Scalar>& numbers, std::vector<Index> axes) {
    auto [found, fresh] = arrays_.try_emplace(name);
    Entry& entry = found->second;
    if (fresh) entry.axes = std::move(axes);
    const Index before = entry.numbers.rows();
    entry.numbers.conservativeResize(before + numbers.rows(), numbers.cols());
    entry.numbers.bottomRows(numbers.rows()) = numbers;
  }
  void append_to(std::vector<TensorToWrite>& tensors, std::optional<Index> batch) const {
    for (const auto& [name, entry] : arrays_) {
      std::vector<Index> axes = entry.axes;
      if (batch) axes.insert(axes.begin(), *batch);
      tensors.push_back({name, {entry.numbers.data(), axes}});
    }
  }
  [[nodiscard]] const Matrix<Scalar>* find(const std::string& name) const {
    const auto found = arrays_.find(name);
    return found == arrays_.end() ? nullptr : &found->second.numbers;
  }
  [[nodiscard]] std::vector<Index> axes(const std::string& name) const { return arrays_.at(name).axes; }
  [[nodiscard]] bool all_finite() const {
    return std::all_of(arrays_.begin(), arrays_.end(), [](const auto& array) { return detail::all_finite(array.second.numbers); });
  }

 private:
  struct Entry {
    std::vector<Index> axes;
    Matrix<Scalar> numbers;
  };
  std::map<std::string, Entry> arrays_;
};

/// What of a result is written.
struct Choice {
  std::optional<Index> batch;  ///< nothing where the input was one sequence without a batch in front
  Index tokens = 0;
  std::vector<Index> channels, rows, heads;
  Index summands = 1;  ///< matrices of a head
  std::optional<ReductionKind> reduction;
  bool heads_only = false;  ///< no attention: pictures and .npy hold one thing, and in .safetensors it may be larger than the limit

  [[nodiscard]] Index row_count() const { return static_cast<Index>(rows.size()); }
  /// Matrices of the attention, or where heads alone are written, of the heads, one below the other.
  [[nodiscard]] Index matrices() const {
    const auto of_sequence = [&]() -> Index {
      if (heads_only) return static_cast<Index>(heads.size()) * summands;
      return reduction ? 1 : static_cast<Index>(channels.size());
    };
    return batch.value_or(1) * of_sequence();
  }
  /// A shape with the batch in front, where there is one.
  [[nodiscard]] std::vector<Index> with_batch(std::vector<Index> axes) const {
    if (batch) axes.insert(axes.begin(), *batch);
    return axes;
  }
};

/// What the options choose of a layer's attention. Fails (limit) where a picture has no room for it and no reduction may take its place,
/// and (value) where heads are asked of a layer that has none. Beside heads, an attention that nobody chose channels of is left out where
/// it is larger than the limit.
template <Real Scalar>
Choice choice_of(const Options& options, std::optional<Index> batch, const Run<Scalar>& run) {
  const ImplicitAttention<Scalar>&attention = run.attention, &of_heads = run.of_heads();
  const bool safetensors = std::filesystem::path(options.out).extension() == ".safetensors";
  Choice choice;
  choice.batch = batch;
  choice.tokens = run.tokens;
  choice.channels = parse_indices("--channels", options.channels).resolve(attention.channels(), "channel");
  choice.rows = parse_indices("--rows", options.rows).resolve(run.tokens, "row");
  choice.reduction = options.reduction();
  if (!options.heads.empty()) {
    if (of_heads.heads() == 0 && !Terms::parse(options.terms).has(Term::recurrence))
      detail::raise(ErrorKind::value, "--heads: --terms ", options.terms, " leaves out the recurrence, which is what heads share");
    if (of_heads.heads() == 0)
      detail::raise(
          ErrorKind::value,
          "--heads: every channel of this layer has a matrix of its own, and no head shares one; leave --heads out and choose with "
          "--channels (with --terms recurrence for the recurrence alone)");
    choice.heads = parse_indices("--heads", options.heads).resolve(of_heads.heads(), "head");
    choice.summands = of_heads.summands();
    choice.heads_only = !safetensors;
    if (safetensors && !options.channels_given && !options.reduce_given) {
      const std::vector<Index> shape{choice.matrices() * choice.row_count(), run.tokens};
      const std::string over = detail::over_byte_limit("attention", shape, sizeof(Scalar), options.byte_limit);
      choice.heads_only = !over.empty();
      if (choice.heads_only) {
        const auto count = static_cast<Index>(choice.heads.size());
        check_byte_limit("an array of head maps", {count, choice.row_count(), run.tokens}, sizeof(Scalar), options.byte_limit,
                         detail::fewer_heads);
        std::fprintf(stderr, "materialize: %s, and is left out; --channels 0 adds one channel's, --reduce mean their mean\n", over.c_str());
      }
    }
  }
  const bool picture = std::filesystem::path(options.out).extension() == ".png";
  if (!picture || choice.matrices() <= most_panels) return choice;
  const bool too_many_sequences = batch.value_or(1) > most_panels;
  if (too_many_sequences || choice.heads_only || choice.reduction || options.reduce_given)
    detail::raise(ErrorKind::limit, "--out: a picture has room for ", most_panels, " matrices, and these are ", choice.matrices(),
                  too_many_sequences  ? ", one a sequence at least; write .npy or .safetensors"
                  : choice.heads_only ? "; choose fewer with --heads"
                                      : "; choose fewer with --channels, or join them with --reduce mean-abs");
  std::fprintf(stderr, "materialize: %s matrices are more than a picture has room for: it shows their mean of absolute values\n",
               grouped(choice.matrices()).c_str());
  choice.reduction = ReductionKind::mean_abs;
  return choice;
}

/// The chosen rows that are tokens of one run, and their places among all chosen rows. The others are padding, and stay zero.
class RunRows {
 public:
  /// The run's tokens begin at `first` of the padded sequence.
  RunRows(const Choice& choice, Index first, Index tokens) : first_(first), all_(choice.row_count()) {
    for (Index r = 0; r < all_; ++r)
      if (const Index row = choice.rows[static_cast<std::size_t>(r)] - first; row >= 0 && row < tokens) {
        own_.push_back(row);
        places_.push_back(r);
      }
  }

  /// By their number in the run.
  [[nodiscard]] const std::vector<Index>& own() const { return own_; }
  [[nodiscard]] Index count() const { return static_cast<Index>(own_.size()); }
  [[nodiscard]] Index place(Index r) const { return places_[static_cast<std::size_t>(r)]; }
  /// Matrices of the run's own rows and tokens, one below the other, into a place with room for all rows and tokens.
  template <Real Scalar>
  void place(const Matrix<Scalar>& made, View<Scalar> into) const {
    into.setZero();
    for (Index matrix = 0; count() > 0 && matrix < made.rows() / count(); ++matrix)
      for (Index r = 0; r < count(); ++r) into.row(matrix * all_ + place(r)).segment(first_, made.cols()) = made.row(matrix * count() + r);
  }

 private:
  Index first_, all_;
  std::vector<Index> own_, places_;
};

/// Everything that is written, sequence after sequence.
template <Real Scalar>
class Result {
 public:
  /// `batch` is nothing where the input was one sequence without a batch in front.
  Result(const Options& options, std::optional<Index> batch) : options_(options) { choice_.batch = batch; }

  void add(const Run<Scalar>& run, Index sequence, const Executor& executor) {
    const ImplicitAttention<Scalar>& attention = run.attention;
    if (sequence == 0) prepare(run);
    const RunRows rows(choice_, run.first, attention.tokens());
    const Selection selection{choice_.channels, rows.own(), options_.byte_limit, executor};
    if (!choice_.heads_only) add_attention(attention, sequence, rows, selection);
    if (!options_.heads.empty()) add_heads(run.of_heads(), rows, executor);
    add_bias(attention, rows);
    add_tokens("linear_input", run, run.x);
    add_tokens("y", run, run.y);
    add_tokens("out", run, run.out);
    if (attention.has_second()) add_second(run, rows, selection);
  }

  [[nodiscard]] bool all_finite() const { return detail::all_finite(numbers_) && more_.all_finite(); }

  [[nodiscard]] const Choice& choice() const { return choice_; }
  /// The attention, or where heads alone are written, their matrices.
  [[nodiscard]] const Matrix<Scalar>& matrices() const { return choice_.heads_only ? *more_.find("recurrence") : numbers_; }
  [[nodiscard]] std::vector<Index> matrices_shape() const {
    if (choice_.heads_only) return choice_.with_batch(more_.axes("recurrence"));
    std::vector<Index> axes = {choice_.row_count(), choice_.tokens};
    if (!choice_.reduction) axes.insert(axes.begin(), static_cast<Index>(choice_.channels.size()));
    return choice_.with_batch(std::move(axes));
  }
  [[nodiscard]] std::vector<TensorToWrite> tensors() const {
    std::vector<TensorToWrite> tensors;
    if (!choice_.heads_only) tensors.push_back({"attention", ArrayToWrite(numbers_.data(), matrices_shape())});
    more_.append_to(tensors, choice_.batch);
    return tensors;
  }

 private:
  void prepare(const Run<Scalar>& run) {
    choice_ = choice_of(options_, choice_.batch, run);
    if (choice_.heads_only) return;
    const Index rows = choice_.matrices() * choice_.row_count();
    check_byte_limit("attention", {rows, run.tokens}, sizeof(Scalar), options_.byte_limit);
    numbers_.resize(rows, run.tokens);
  }

  void add_attention(const ImplicitAttention<Scalar>& attention, Index sequence, const RunRows& rows, const Selection& selection) {
    const Index per_sequence = numbers_.rows() / choice_.batch.value_or(1);
    View<Scalar> numbers(numbers_.row(sequence * per_sequence).data(), per_sequence, choice_.tokens);
    const bool whole = attention.tokens() == choice_.tokens;
    if (const auto& reduction = choice_.reduction)
      whole ? attention.reduce_into(numbers, {*reduction, {}, {}}, selection)
            : rows.place<Scalar>(attention.reduce({*reduction, {}, {}}, selection), numbers);
    else
      whole ? attention.materialize_into(numbers, selection)
            : rows.place<Scalar>(Matrix<Scalar>(attention.materialize(selection).stacked()), numbers);
  }

  void add_heads(const ImplicitAttention<Scalar>& attention, const RunRows& run_rows, const Executor& executor) {
    const std::vector<Index>& heads = choice_.heads;
    const Index summands = choice_.summands, rows = run_rows.count(), count = static_cast<Index>(heads.size());
    Index rank = 1;
    while (rank * rank < summands) ++rank;
    Matrix<Scalar> maps(count * summands * rows, attention.tokens());
    for (Index summand = 0; summand < summands; ++summand) {
      const AttentionMatrix<Scalar> one = attention.head_maps({heads, run_rows.own(), options_.byte_limit, executor}, summand);
      for (Index head = 0; head < one.channels(); ++head) maps.middleRows((head * summands + summand) * rows, rows) = one.channel(head);
    }
    std::vector<Index> axes = {count, choice_.row_count(), choice_.tokens};
    if (summands > 1) axes.insert(axes.begin() + 1, {rank, summands / rank});
    Matrix<Scalar> placed(count * summands * choice_.row_count(), choice_.tokens);
    run_rows.place<Scalar>(maps, placed);
    more_.add("recurrence", placed, axes);
  }

  /// What a state that came with the input gives is a constant of this run, as a bias is.
  void add_bias(const ImplicitAttention<Scalar>& attention, const RunRows& rows) {
    const Matrix<Scalar> bias = attention.bias() + attention.carry();
    Matrix<Scalar> chosen = Matrix<Scalar>::Zero(static_cast<Index>(choice_.channels.size()), choice_.row_count());
    for (Index c = 0; c < chosen.rows(); ++c)
      for (Index r = 0; r < rows.count(); ++r)
        chosen(c, rows.place(r)) = bias(rows.own()[static_cast<std::size_t>(r)], choice_.channels[static_cast<std::size_t>(c)]);
    more_.add("bias", chosen, {chosen.rows(), chosen.cols()});
  }

  void add_tokens(const char* name, const Run<Scalar>& run, const Array<Scalar>& array) {
    Matrix<Scalar> padded = Matrix<Scalar>::Zero(choice_.tokens, array.cols());
    padded.middleRows(run.first, array.rows()) = *array;
    more_.add(name, padded, {choice_.tokens, array.cols()});
  }

  /// The path of a second input: a gate of it where that is all, else its matrices.
  void add_second(const Run<Scalar>& run, const RunRows& rows, const Selection& selection) {
    const ImplicitAttention<Scalar> second = run.attention.second();
    const UnifiedForm<Scalar>& form = second.form();
    const bool diagonal = form.convolution.empty() && form.activation.empty() && form.skip.empty();
    if (diagonal && !form.gate.empty()) return add_tokens("extra", run, form.gate);
    if (choice_.heads_only) return;  // as large as the attention
    const Index channels = static_cast<Index>(choice_.channels.size());
    Matrix<Scalar> skip(channels * choice_.row_count(), choice_.tokens);
    rows.place<Scalar>(Matrix<Scalar>(second.materialize(selection).stacked()), skip);
    more_.add("skip_attention", skip, {channels, choice_.row_count(), choice_.tokens});
    add_tokens("skip_input", run, run.attention.second_input());
  }

  const Options& options_;
  Choice choice_;
  Matrix<Scalar> numbers_;  // (batch * channels * rows, tokens), or (batch * rows, tokens)
  Stacked<Scalar> more_;    // bias (channels, rows); linear_input, y, out (tokens, ...); recurrence (heads, rows, tokens)
};

/// A heat map of each matrix. `labels`: one per token, or none.
template <Real Scalar>
void draw(const Options& options, const Result<Scalar>& result, const std::string& title, const std::vector<std::string>& labels) {
  const Choice& choice = result.choice();
  const Matrix<Scalar>& numbers = result.matrices();
  HeatMap map;
  map.title = title;
  if (choice.reduction) map.value_name = reduction_text(*choice.reduction);
  const Index panels = choice.matrices(), per_sequence = panels / choice.batch.value_or(1);
  for (Index p = 0; p < panels; ++p) {
    const auto of_sequence = static_cast<std::size_t>(p % per_sequence);
    Panel panel;
    if (choice.batch) panel.subtitle = detail::message("sequence ", p / per_sequence);
    if (choice.heads_only) {  // a head's summands stand side by side
      const auto parts = static_cast<std::size_t>(choice.summands);
      panel.subtitle += detail::message(choice.batch ? ", head " : "head ", choice.heads[of_sequence / parts]);
      if (parts > 1) panel.subtitle += detail::message(", part ", of_sequence % parts);
    } else if (!choice.reduction)
      panel.subtitle += detail::message(choice.batch ? ", channel " : "channel ", choice.channels[of_sequence]);
    panel.values = numbers.middleRows(p * choice.row_count(), choice.row_count()).template cast<double>();
    panel.row_tokens = choice.rows;
    if (!labels.empty()) {
      panel.column_labels = labels;
      for (const Index row : choice.rows) panel.row_labels.push_back(labels[static_cast<std::size_t>(row)]);
    }
    map.panels.push_back(std::move(panel));
  }
  map.caption = detail::message("Terms: ", choice.heads_only ? std::string("recurrence") : Terms::parse(options.terms).text(), ".");
  warn_of_missing_glyphs("materialize", write_heat_map(options.out, map).missing_glyphs);
}

template <Real Scalar>
void write_result(const Options& options, const Result<Scalar>& result, const std::string& ending, const std::string& title,
                  const std::vector<std::string>& labels) {
  if (ending == ".png") return draw(options, result, title, labels);
  if (ending == ".npy") return write_npy(options.out, ArrayToWrite(result.matrices().data(), result.matrices_shape()));
  write_safetensors(options.out, result.tensors());
}

// --- One layer, from its weights and its input --------------------------------------------------------------------------

/// The tensor of the layer's input: the one named, or one of the usual names, or the only one there is beside a mask.
std::string input_tensor(const SafetensorsFile& file, const std::string& named) {
  if (!named.empty()) return named;
  for (const char* usual : {"input.hidden_states", "hidden_states"})
    if (file.find(usual)) return usual;
  std::vector<std::string> names;
  for (const auto& [name, info] : file.tensors())
    if (name != "attention_mask" && name != "input.attention_mask") names.push_back(name);
  if (names.size() == 1) return names.front();
  detail::raise(ErrorKind::value, "--input: ", file.where(), " holds ", names.empty() ? "no input" : some_of(names), "; name the input as ",
                file.where(), ":TENSOR");
}

/// What stands before a layer's tensors: what the option says, with or without its last dot; without the option, the only prefix there is.
template <Real Scalar>
std::string weights_prefix(const Options& options, const TensorSource<Scalar>& source, const LayerFamily<Scalar>& family) {
  if (family.telling.empty()) return options.prefix.value_or("");
  std::vector<std::string> prefixes;
  for (const std::string& name : source.names())
    for (const std::string_view telling : family.telling)
      if (name == telling || (name.size() > telling.size() &&
                              name.compare(name.size() - telling.size() - 1, std::string::npos, "." + std::string(telling)) == 0))
        if (std::string prefix = name.substr(0, name.size() - telling.size());
            std::find(prefixes.begin(), prefixes.end(), prefix) == prefixes.end())
          prefixes.push_back(std::move(prefix));
  if (options.prefix) {
    for (const std::string& prefix : {*options.prefix, *options.prefix + "."})
      if (std::find(prefixes.begin(), prefixes.end(), prefix) != prefixes.end()) return prefix;
  } else if (prefixes.size() == 1) {
    return prefixes.front();
  }
  if (prefixes.empty()) {
    std::vector<std::string> names;
    for (const std::string_view telling : family.telling) names.push_back(detail::message(options.prefix.value_or(""), telling));
    detail::raise(ErrorKind::file, source.where(), ": there is no tensor ", one_of_these(names), ", expected the weights of a ",
                  family.name, " layer");
  }
  for (std::string& prefix : prefixes) prefix = prefix.empty() ? "\"\"" : prefix;
  detail::raise(ErrorKind::value, "--prefix: ",
                options.prefix ? detail::message("no ", family.name, " layer has its weights below ", *options.prefix)
                               : detail::message("several ", family.name, " layers are in ", source.where()),
                "; there are ", some_of(prefixes));
}

/// Fails on a NaN or an infinity in the input. It names the token where a sequence has this many of them, each of so many
/// rows (one a head), else the row of the tensor.
template <Real Scalar>
void check_finite_input(const SafetensorsFile& file, const std::string& tensor, const Array<Scalar>& input, Index tokens = 0,
                        Index rows_per_token = 1) {
  const auto place = detail::first_not_finite(*input);
  if (!place) return;
  const auto [row, column] = *place;
  const std::string where = tokens > 0 ? detail::message("token ", row / rows_per_token % tokens) : detail::message("row ", row);
  detail::raise(ErrorKind::value, file.where(), ": ", detail::not_finite_name(input(row, column)), " in the input, ", where, ", feature ",
                column, " (tensor ", tensor, "), expected finite numbers");
}

/// Fails (shape) unless a tensor holds a number for every token of every sequence.
void check_shape_of_tokens(const SafetensorsFile& file, const std::string& tensor, Index batch, Index tokens) {
  const std::vector<Index>& shape = file.info(tensor).shape;
  if (shape != std::vector<Index>{batch, tokens} && !(batch == 1 && shape == std::vector<Index>{tokens}))
    detail::raise(ErrorKind::shape, file.where(), ": tensor ", tensor, " is ", shape_text(shape), ", expected ",
                  shape_text({batch, tokens}), " = (batch, tokens)");
}

/// Integers, one a token of each sequence: (batch, tokens), or (tokens) of one.
std::vector<Index> read_of_tokens(const SafetensorsFile& file, const std::string& tensor, Index batch, Index tokens) {
  check_shape_of_tokens(file, tensor, batch, tokens);
  const auto numbers = file.read_integers(tensor);
  return std::vector<Index>(numbers.begin(), numbers.end());
}

/// The positions of all sequences, (batch * tokens); none where the option is not there.
std::vector<Index> read_positions(const Options& options, Index batch, Index tokens) {
  if (options.positions.empty()) return {};
  const FileAndTensor where = parse_file_and_tensor(options.positions);
  if (where.tensor.empty())
    detail::raise(ErrorKind::value, "--positions: \"", options.positions, "\" names no tensor, expected FILE:TENSOR");
  const SafetensorsFile file(where.file);
  std::vector<Index> positions = read_of_tokens(file, where.tensor, batch, tokens);
  for (const Index position : positions)
    if (position < 0)
      detail::raise(ErrorKind::value, file.where(), ": tensor ", where.tensor, " holds position ", position, ", expected at least 0");
  return positions;
}

/// The names that --arch takes.
std::vector<std::string> architecture_names() {
  std::vector<std::string> names;
  for (const LayerFamily<float>& family : layer_families<float>()) names.emplace_back(family.name);
  return names;
}
std::string all_architectures() { return joined(architecture_names(), ", "); }

/// The family that --arch names.
template <Real Scalar>
const LayerFamily<Scalar>& named_family(const std::string& arch) {
  for (const LayerFamily<Scalar>& family : layer_families<Scalar>())
    if (family.name == arch) return family;
  detail::raise(ErrorKind::value, "--arch: ", arch, " is unknown", perhaps(arch, architecture_names()), ", expected one of ",
                all_architectures());
}

/// The layer's configuration: of --config, else what the file of weights carries in its metadata, else what lies beside it.
template <Real Scalar>
Configuration layer_configuration(const Options& options, const Checkpoint<Scalar>& weights) {
  if (std::filesystem::path(options.config).extension() == ".safetensors") {
    const SafetensorsFile file(options.config);
    if (!file.metadata().contains("config"))
      detail::raise(ErrorKind::file, file.where(), ": its metadata has no config, expected a JSON object under that key");
    return read_metadata_configuration(file);
  }
  if (!options.config.empty()) return read_configuration(options.config);
  if (std::error_code ignored; weights.format == "safetensors" && !std::filesystem::is_directory(options.weights, ignored))
    if (const SafetensorsFile file(options.weights); file.metadata().contains("config")) return read_metadata_configuration(file);
  return weights.configuration;
}

/// The input of all sequences, (batch * tokens, width), and its shape: one tensor, or q, k and v side by side (linear attention).
template <Real Scalar>
struct Input {
  Array<Scalar> numbers;
  std::optional<Index> batch;
  Index tokens = 0;
};
/// Whether a name stands for the tensors input.q, input.k and input.v: any of theirs, none where they are there, and the one that every
/// other layer's input has, where there is no such tensor.
bool names_query_key_value(const SafetensorsFile& file, const std::string& named) {
  if (named.empty()) return file.find("input.q") != nullptr;
  if (named == "input.hidden_states") return file.find(named) == nullptr;
  return named == "input.q" || named == "input.k" || named == "input.v";
}
template <Real Scalar>
Input<Scalar> read_input(const Options& options, const SafetensorsFile& file, const std::string& named, const Part<Scalar>& part) {
  Input<Scalar> input;
  const bool apart = options.arch == "linear_attention" && names_query_key_value(file, named);
  const std::string tensor = apart ? "input.q" : input_tensor(file, named);
  const std::vector<Index>& shape = file.info(tensor).shape;
  const auto take_shape = [&](std::size_t axes) {
    if (shape.size() == axes + 1) input.batch = shape.front();
    input.tokens = shape[shape.size() - axes];
  };
  if (apart) {
    if (shape.size() != 3 && shape.size() != 4)
      detail::raise(ErrorKind::shape, file.where(), ": tensor ", tensor, " is ", shape_text(shape),
                    ", expected (tokens, heads, size) or (batch, ...)");
    take_shape(3);
    const Index rows = input.batch.value_or(1) * input.tokens;
    std::vector<Array<Scalar>> pieces;
    Index width = 0;
    for (const std::string name : {"input.q", "input.k", "input.v"}) {
      // Keys are as queries are; values may be of another size.
      std::vector<Index> expected = shape;
      const std::vector<Index>& own = file.info(name).shape;
      if (name == "input.v" && own.size() == shape.size()) expected.back() = own.back();
      if (own != expected || file.info(name).count == 0)
        detail::raise(ErrorKind::shape, file.where(), ": tensor ", name, " is ", shape_text(own), ", expected ", shape_text(expected),
                      ", with at least one token, as ", tensor);
      pieces.push_back(file.read<Scalar>(name));
      check_finite_input(file, name, pieces.back(), input.tokens, pieces.back().rows() / rows);
      width += pieces.back().size() / rows;
    }
    Matrix<Scalar> joined(rows, width);
    Index first = 0;
    for (const Array<Scalar>& piece : pieces) {
      const Index columns = piece.size() / rows;
      joined.middleCols(first, columns) = Eigen::Map<const Matrix<Scalar>>(piece.data(), rows, columns);
      first += columns;
    }
    input.numbers = std::move(joined);
    return input;
  }
  if ((shape.size() != 2 && shape.size() != 3) || shape.back() != part.width() || file.info(tensor).count == 0)
    detail::raise(ErrorKind::shape, file.where(), ": tensor ", tensor, " is ", shape_text(shape), ", expected (tokens, ", part.width(),
                  ") or (batch, tokens, ", part.width(), "), the width of the weights, with at least one token");
  take_shape(2);
  input.numbers = file.read<Scalar>(tensor);
  check_finite_input(file, tensor, input.numbers, input.tokens);
  return input;
}

/// An attention mask's numbers, (batch * tokens): integers, truth values or floating-point numbers. Fails (value) on one that is neither 0
/// nor 1, as masks that are added have them.
std::vector<double> mask_numbers(const SafetensorsFile& file, const std::string& name, Index batch, Index tokens) {
  check_shape_of_tokens(file, name, batch, tokens);
  StoredTensor mask = file.stored(name);
  if (mask.dtype == Dtype::BOOL) mask.dtype = Dtype::U8;  // a byte each
  if (!mask.readable())
    detail::raise(ErrorKind::file, file.where(), ": tensor ", name, " is ", printable(file.info(name).dtype_text),
                  ", expected BOOL, integers or floats");
  std::vector<double> numbers(static_cast<std::size_t>(batch * tokens));
  mask.widen_rows(0, mask.rows, numbers.data(), mask.columns);
  for (std::size_t i = 0; i < numbers.size(); ++i)
    if (numbers[i] != 0 && numbers[i] != 1)
      detail::raise(ErrorKind::value, file.where(), ": tensor ", name, " is ", numbers[i], " at token ", static_cast<Index>(i) % tokens,
                    " of sequence ", static_cast<Index>(i) / tokens, ", expected 0 where there is padding, else 1");
  return numbers;
}

/// The tokens of each sequence that are text, [first, end): an attention mask of zeros and ones beside the input, with padding on one side
/// or both. Without a mask, all of them. A mask with holes is refused.
std::vector<std::pair<Index, Index>> read_mask(const SafetensorsFile& file, Index batch, Index tokens) {
  std::vector<std::pair<Index, Index>> text(static_cast<std::size_t>(batch), {Index(0), tokens});
  const std::string name = file.find("input.attention_mask") ? "input.attention_mask" : "attention_mask";
  if (!file.find(name)) return text;
  const std::vector<double> mask = mask_numbers(file, name, batch, tokens);
  for (Index sequence = 0; sequence < batch; ++sequence) {
    const auto at = [&](Index token) { return mask[static_cast<std::size_t>(sequence * tokens + token)]; };
    Index first = 0, end = tokens;
    while (first < end && at(first) == 0) ++first;
    while (end > first && at(end - 1) == 0) --end;
    for (Index token = first; token < end; ++token)
      if (at(token) != 1)
        detail::raise(ErrorKind::value, file.where(), ": tensor ", name, " is ", at(token), " at token ", token, " of sequence ", sequence,
                      ", expected ones between the padding");
    if (first == end)
      detail::raise(ErrorKind::value, file.where(), ": tensor ", name, " leaves nothing of sequence ", sequence, ", expected a token");
    text[static_cast<std::size_t>(sequence)] = {first, end};
  }
  return text;
}

/// What else a layer reads, found beside the input under `input.`: v (linear attention: how wide the values are), v_first, lower_bound,
/// h0, c0.
template <Real Scalar>
class SharedInputs {
 public:
  SharedInputs(const SafetensorsFile& file, Index batch) {
    for (const char* name : {"v", "v_first", "lower_bound", "h0", "c0"}) {
      const std::string tensor = detail::message("input.", name);
      if (!file.find(tensor)) continue;
      Array<Scalar> numbers = file.read<Scalar>(tensor);
      check_finite_input(file, tensor, numbers);
      const bool by_sequence = file.info(tensor).shape.size() > 1 && numbers.rows() % batch == 0 && numbers.rows() >= batch;
      const Index rows = by_sequence ? numbers.rows() / batch : 0;
      inputs_.push_back({name, std::move(numbers), rows});
    }
  }
  void share(Index sequence, Trace<Scalar>& trace, RunContext<Scalar>& context) const {
    for (const auto& [name, numbers, rows] : inputs_)
      context.share(name, trace.constant(rows > 0 ? numbers.middle_rows(sequence * rows, rows) : numbers));
  }

 private:
  struct Shared {
    std::string name;
    Array<Scalar> numbers;
    Index rows;  ///< one, or one block of rows, a sequence; 0: the same for all
  };
  std::vector<Shared> inputs_;
};

/// Fails (value) with what is left where weights and input are finite, and the result is not.
template <Real Scalar>
[[noreturn]] void refuse_overflow() {
  constexpr bool single = std::is_same_v<Scalar, float>;
  detail::raise(ErrorKind::value, "the result is not finite, though weights and input are: a number is too large for ",
                single ? "float32; --precision float64 may hold it" : "float64");
}

template <Real Scalar>
void materialize_weights(const Options& options, const std::string& ending) {
  const LayerFamily<Scalar>& family = named_family<Scalar>(options.arch);
  const Checkpoint<Scalar> checkpoint = open_checkpoint<Scalar>(options.weights, !options.config.empty());
  const WatchedTensors<Scalar> watched(*checkpoint.source);
  const std::string prefix = weights_prefix<Scalar>(options, watched, family);
  const Configuration configuration = layer_configuration(options, checkpoint);
  detail::expect_layer_type(family, configuration);
  const PartPointer<Scalar> part = [&] {
    const detail::NamesRead names;
    return family.read(PrefixedTensors<Scalar>(watched, prefix), configuration);
  }();
  detail::expect_layer_used(watched, prefix, family.title);
  detail::expect_layer_width(configuration, part->width());
  detail::expect_layer_understood(configuration, family.title);

  const FileAndTensor where = parse_file_and_tensor(options.input);
  const SafetensorsFile file(where.file);
  const Input<Scalar> input = read_input<Scalar>(options, file, where.tensor, *part);
  const Index batch = input.batch.value_or(1);
  const SharedInputs<Scalar> shared(file, batch);
  const std::vector<Index> positions = read_positions(options, batch, input.tokens);
  const std::vector<std::pair<Index, Index>> text = read_mask(file, batch, input.tokens);
  refuse_small_weights_not_finite(watched);  // after the input, which may lie in the same file
  Work work("materialize", batch, options.threads);
  Result<Scalar> result(options, input.batch);
  for (Index sequence = 0; sequence < batch; ++sequence) {
    Trace<Scalar> trace(false, work.executor());
    RunContext<Scalar> context;
    const auto [first, end] = text[static_cast<std::size_t>(sequence)];
    if (!positions.empty()) {
      const auto from = positions.begin() + sequence * input.tokens;
      context.positions.assign(from + first, from + end);
    }
    shared.share(sequence, trace, context);
    static_cast<void>(part->run(trace.input(input.numbers.middle_rows(sequence * input.tokens + first, end - first)), context));
    work.begin_piece();
    result.add(run_of(context.mixers.front(), options, first, input.tokens), sequence, work.executor());
  }
  if (!result.all_finite()) {
    refuse_weights_not_finite<Scalar>(options.weights);
    refuse_overflow<Scalar>();
  }
  write_result(options, result, ending, detail::message(family.title, " layer"), {});
}

// --- One layer of a language model --------------------------------------------------------------------------------------

template <Real Scalar>
void materialize_model(const Options& options, const std::string& ending) {
  std::vector<Index> ids;
  const Index layer = *options.layer;
  const LoadedModel<Scalar> loaded = LoadedModel<Scalar>::open(
      options.model, options.sequence.tokenizer, layer, [&](const Tokenizer& opened) { ids = sequence_ids(options.sequence, opened); });
  const LanguageModel<Scalar>& model = loaded.model;
  Work work("materialize", 1, options.threads);
  ForwardOptions forward;
  forward.executor = work.executor();
  const LayerPass<Scalar> pass = model.run_to_layer(ids, layer, forward);
  if (pass.mixers.empty())
    detail::raise(ErrorKind::value, "--layer: layer ", layer, " of ", options.model, " is a feed-forward part and mixes no tokens");
  Result<Scalar> result(options, std::nullopt);
  work.begin_piece();
  result.add(run_of(pass.mixer(), options, 0, static_cast<Index>(ids.size())), 0, work.executor());
  if (!result.all_finite()) {
    refuse_weights_not_finite<Scalar>(options.model);
    refuse_overflow<Scalar>();
  }
  write_result(options, result, ending, detail::message(architecture_text(model.name()), ", layer ", layer), loaded.tokenizer.labels(ids));
}

template <Real Scalar>
void materialize(const Options& options, const std::string& ending) {
  options.model.empty() ? materialize_weights<Scalar>(options, ending) : materialize_model<Scalar>(options, ending);
}

// --- The command line ---------------------------------------------------------------------------------------------------

/// Whether a layer that --arch names reads positions; true for a name that is none, which has a message of its own.
bool reads_positions(const std::string& arch) {
  for (const LayerFamily<float>& family : layer_families<float>())
    if (family.name == arch) return family.reads_positions;
  return true;
}

void check(const Options& options, bool layer_options, bool model_options) {
  const bool layer_form = layer_options && !model_options, model_form = model_options && !layer_options;
  if (layer_options && model_options)
    detail::raise(ErrorKind::value,
                  "--arch, --weights, --input and --model, --layer, --text exclude each other: either a layer's weights, or a model");
  if (!layer_form && !model_form)
    detail::raise(
        ErrorKind::value,
        "expected --arch, --weights and --input, or --model, --layer and --text or --tokens; materialize --help has an example of each");
  if (layer_form) {
    if (options.arch.empty()) detail::raise(ErrorKind::value, "--arch is missing, expected one of ", all_architectures());
    if (options.weights.empty()) detail::raise(ErrorKind::value, "--weights is missing, expected a file of weights or its folder");
    if (options.input.empty()) detail::raise(ErrorKind::value, "--input is missing, expected FILE or FILE:TENSOR");
    if (!options.positions.empty() && !reads_positions(options.arch))
      detail::raise(ErrorKind::value, "--positions: ", options.arch, " has none: its layers read no positions");
  } else {
    if (options.model.empty())
      detail::raise(ErrorKind::value, "--model is missing, expected a folder with config.json and model.safetensors");
    if (!options.layer) detail::raise(ErrorKind::value, "--layer is missing, expected a number from 0");
  }
}

}  // namespace

int main(int argument_count, char** arguments) {
  Options options;
  CLI::App app("Writes the implicit attention of one layer: A, with A x + bias = y exactly, as numbers or as a picture.", "materialize");
  app.add_option("--arch", options.arch, "the architecture of the layer: " + all_architectures())->option_text("NAME");
  app.add_option("--weights", options.weights,
                 "the layer's weights under their public names: .safetensors, .bin, .pth or .gguf, or a model's folder")
      ->option_text("FILE|DIR");
  app.add_option("--prefix", options.prefix, "what stands before the names, for example backbone.layers.0.mixer.")->option_text("PREFIX");
  app.add_option(
         "--config", options.config,
         "what the shapes of the weights cannot tell: a config.json, its folder, or a .safetensors whose metadata has it under config "
         "(without it: what the file of weights carries). A model_type of models without such layers is an error")
      ->check(not_empty())
      ->option_text("FILE");
  app.add_option("--input", options.input,
                 "the layer's input, (tokens, width) or (batch, tokens, width); without a name: input.hidden_states, hidden_states, or the "
                 "only tensor. An attention_mask (tokens) or (batch, tokens) beside it, zeros at either end, leaves out padding")
      ->option_text("FILE[:TENSOR]");
  app.add_option("--positions", options.positions, "Griffin: positions, (tokens) or (batch, tokens); a document begins where they are 0")
      ->check(not_empty())
      ->option_text("FILE:TENSOR");
  app.add_option("--model", options.model, "instead of all these: a model's folder as it was downloaded, or one file of weights")
      ->option_text("DIR|FILE");
  app.add_option("--layer", options.layer, "which layer of the model, from 0")->check(whole_number())->option_text("N");
  add_sequence_options(app, options.sequence);
  add_terms_option(app, options.terms, false);
  const CLI::Option* channels =
      app.add_option("--channels", options.channels, "which channels: all, last, or a list such as 0,5-7")->option_text("all|last|LIST");
  app.add_option("--rows", options.rows, "which query tokens: all, last, or a list")->option_text("all|last|LIST");
  app.add_option("--heads", options.heads,
                 "the recurrence of each head, for layers whose channels share one matrix a head: all, last, or a list. In .safetensors "
                 "they are `recurrence`, (heads, rows, tokens), beside the attention, which is left out where it is larger than "
                 "--byte-limit and neither --channels nor --reduce is there; .npy and .png then hold the heads alone")
      ->option_text("all|last|LIST");
  const CLI::Option* reduce = app.add_option("--reduce", options.reduce, "join the channels into one map")
                                  ->check(one_of({"none", "mean", "mean-abs", "mean-positive"}))
                                  ->option_text("none|mean|mean-abs|mean-positive");
  app.add_option("--precision", options.precision, "of computing and of what is written (float32)")
      ->check(one_of({"float32", "float64"}))
      ->option_text("float32|float64");
  add_threads_option(app, options.threads, false);
  app.add_option("--byte-limit", options.byte_limit, "the largest attention that may be allocated (4G)")
      ->transform(CLI::AsSizeValue(false))
      ->transform(size_in_bytes())
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
    options.channels_given = channels->count() > 0;
    options.reduce_given = reduce->count() > 0;
    const auto any_given = [&](std::initializer_list<std::string_view> names) {
      return std::any_of(names.begin(), names.end(), [&](std::string_view name) { return given(app, name); });
    };
    check(options, any_given({"--arch", "--weights", "--prefix", "--config", "--input", "--positions"}),
          any_given({"--model", "--layer", "--text", "--tokens", "--tokenizer", "--prepend", "--append", "--chat"}));
    (void)parse_terms("--terms", options.terms);
    (void)parse_indices("--channels", options.channels);
    (void)parse_indices("--rows", options.rows);
    if (given(app, "--heads")) (void)parse_indices("--heads", options.heads);
    const std::string ending =
        checked_output("--out", options.out, {".safetensors", ".npy", ".png"},
                       {options.weights, options.config, options.input, options.positions, options.model,
                        options.sequence.text.value_or(""), options.sequence.tokens.value_or(""), options.sequence.tokenizer});
    if (given(app, "--heads") && ending != ".safetensors")
      for (const std::string_view of_attention : {"--channels", "--reduce", "--terms"})
        if (given(app, of_attention))
          detail::raise(ErrorKind::value, "--heads and ", of_attention, " exclude each other in ", ending,
                        ", which then holds the heads' recurrence alone; leave one of them out, or write .safetensors, which holds both");
    try_output("--out", options.out);
    options.precision == "float64" ? materialize<double>(options, ending) : materialize<float>(options, ending);
  });
}
