// What the readers of public checkpoints share: counting layers, tied heads, and configuration keys checked against the weights.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/stored_rows.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/core/text.hpp>
#include <implicit_attention/core/watched_tensors.hpp>
#include <implicit_attention/models/tensor_names.hpp>
#include <implicit_attention/models/understood_keys.hpp>
#include <implicit_attention/trace/norms.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// What identifies a family: the names of the tensors and the configuration's model_type.
class CheckpointFacts {
 public:
  template <class = void>
  CheckpointFacts(std::vector<std::string> names, const Configuration& configuration)
      : names_(std::move(names)), type_(configuration.text({"model_type"})) {}

  /// Whether the configuration names one of these types.
  template <class = void>
  [[nodiscard]] bool is_type(std::initializer_list<std::string_view> types) const {
    return type_ && std::find(types.begin(), types.end(), *type_) != types.end();
  }
  /// Whether the configuration names no type.
  [[nodiscard]] bool untyped() const { return !type_; }
  /// Whether a tensor's name begins with `prefix` and has `part` in it.
  template <class = void>
  [[nodiscard]] bool has(std::string_view prefix, std::string_view part) const {
    return std::any_of(names_.begin(), names_.end(), [&](const std::string& name) {
      return name.compare(0, prefix.size(), prefix) == 0 && name.find(part) != std::string::npos;
    });
  }

 private:
  std::vector<std::string> names_;
  std::optional<std::string> type_;
};

/// Fails on tensors that the loader did not read, except those known to carry nothing.
template <Real Scalar>
[[gnu::cold]] void expect_all_used(const WatchedTensors<Scalar>& watched, std::string_view architecture) {
  std::string left;
  std::set<std::string> counted;  // names in the file: one tensor of a GGUF file may hold a matrix for every expert
  for (const std::string& name : watched.unused()) {
    // Tables that follow from the configuration; extra prediction heads and vision towers, which the text model does not use.
    const auto ends = [&](std::string_view end) {
      return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
    };
    if (ends("rotary_emb.inv_freq") || ends("rotary_emb.cos_cached") || ends("rotary_emb.sin_cached") || ends("num_batches_tracked"))
      continue;
    if (is_beside_the_text(name)) continue;
    const std::string called = watched.name_in_file(name), also = message(" (", name, ")");
    const bool translated = called.size() > also.size() && called.compare(called.size() - also.size(), also.size(), also) == 0;
    if (!counted.insert(translated ? called.substr(0, called.size() - also.size()) : called).second) continue;
    if (counted.size() <= 3) left += message(left.empty() ? "" : ", ", printable(called));
  }
  const std::size_t count = counted.size();
  if (count == 0) return;
  raise(ErrorKind::file, watched.where(), ": ", count, count == 1 ? " tensor is" : " tensors are", " not used by ", architecture, " (",
        left, count > 3 ? ", ..." : "", "): what ", count == 1 ? "it does" : "they do", " would be missing from the model");
}

/// The same for a layer that is read by itself, with the tensors below its prefix.
template <Real Scalar>
[[gnu::cold]] void expect_layer_used(const WatchedTensors<Scalar>& watched, const std::string& prefix, std::string_view title) {
  for (const std::string& name : watched.unused())
    if (!prefix.empty() && name.compare(0, prefix.size(), prefix) == 0)
      raise(ErrorKind::file, watched.where(), ": tensor ", printable(watched.name_in_file(name)), " is not used by a ", title,
            " layer: what it does would be missing");
}

/// How many layers there are below a prefix such as `backbone.layers.`: one more than the largest number after it. Fails where there are
/// none.
template <Real Scalar>
[[nodiscard]] Index count_layers(const TensorSource<Scalar>& source, std::string_view prefix) {
  Index count = 0;
  for (const std::string& name : source.names()) {
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    Index layer = 0;
    const char* const end = name.data() + name.size();
    const auto read = std::from_chars(name.data() + prefix.size(), end, layer);
    // A number that no file could hold layers for is not a layer's.
    if (read.ec == std::errc() && read.ptr != end && *read.ptr == '.' && layer < 100000) count = std::max(count, layer + 1);
  }
  if (count == 0)
    raise(ErrorKind::file, source.where(), ": there are no tensors ", source.name_in_file(message(prefix, "0.*")),
          ", expected at least one layer");
  return count;
}

/// A key that contradicts the weights is an error.
template <class Value>
[[noreturn]] void contradiction(const Configuration& configuration, std::string_view key, const Value& value, const Value& expected,
                                std::string_view reason) {
  raise(ErrorKind::value, configuration.where(), ": key ", key, " is ", value, ", expected ", expected, ": ", reason);
}

template <class = void>
[[gnu::cold]] void expect_integer(const Configuration& configuration, std::initializer_list<std::string_view> spellings, Index expected,
                                  std::string_view reason) {
  for (const std::string_view key : spellings)
    if (const std::optional<Index> value = configuration.integer({key}); value && *value != expected)
      contradiction(configuration, key, *value, expected, reason);
}

/// Holds the model width of a configuration against a layer that is read by itself. Keys that the layer's reader used already are skipped:
/// in an LSTM's configuration it is the width of the state.
template <class = void>
[[gnu::cold]] void expect_layer_width(const Configuration& configuration, Index width) {
  const std::string_view text = "text_config.hidden_size";  // in a multimodal model the text model's counts
  for (const std::string_view key : {text, std::string_view("hidden_size"), std::string_view("n_embd"), std::string_view("d_model")}) {
    if (!configuration.has(key) || configuration.asked(key) || (key != text && configuration.has(text))) continue;
    expect_integer(configuration, {key}, width, "the layer's input is that wide");
  }
}

template <class = void>
[[gnu::cold]] void expect_boolean(const Configuration& configuration, std::initializer_list<std::string_view> spellings, bool expected,
                                  std::string_view reason) {
  const auto text = [](bool value) { return std::string_view(value ? "true" : "false"); };
  for (const std::string_view key : spellings)
    if (const std::optional<bool> value = configuration.boolean({key}); value && *value != expected)
      contradiction(configuration, key, text(*value), text(expected), reason);
}

/// A key that says whether these tensors are present: it must be right about each of them.
template <Real Scalar>
[[gnu::cold]] void expect_tensors(const Configuration& configuration, std::initializer_list<std::string_view> spellings,
                                  const PrefixedTensors<Scalar>& tensors, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    const bool there = tensors.has(name);
    expect_boolean(configuration, spellings, there, message("tensor ", tensors.name_in_file(name), there ? " is there" : " is missing"));
  }
}

/// Whether any of these tensors is there.
template <Real Scalar>
[[nodiscard]] bool has_any(const PrefixedTensors<Scalar>& tensors, std::initializer_list<std::string_view> names) {
  return std::any_of(names.begin(), names.end(), [&](std::string_view name) { return tensors.has(name); });
}

/// Tensors that every public layer of a family has, though the kind of layer as such can be without them: a lost one would be taken for a
/// part that is not there.
template <Real Scalar>
[[gnu::cold]] void expect_present(const PrefixedTensors<Scalar>& tensors, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names)
    if (!tensors.has(name)) raise(ErrorKind::file, tensors.source().where(), ": tensor ", tensors.name_in_file(name), " is missing");
}

/// The same of tensors that a boolean key leaves out where it is false. Without the key they are there, as they are by default in the
/// public code, and the key is named as what could leave them out; with it, they are as it says.
template <Real Scalar>
[[gnu::cold]] void expect_present_unless(const Configuration& configuration, std::string_view key, const PrefixedTensors<Scalar>& tensors,
                                         std::initializer_list<std::string_view> names) {
  if (configuration.has(key)) return expect_tensors(configuration, {key}, tensors, names);
  for (const std::string_view name : names)
    if (!tensors.has(name))
      raise(ErrorKind::file, tensors.source().where(), ": tensor ", tensors.name_in_file(name), " is missing; a layer without it has ", key,
            " false in its configuration");
}

/// Tensors that one setting of the public code puts into a layer or leaves out together: having only some of them is an error.
template <Real Scalar, class Names = std::initializer_list<std::string_view>>
[[gnu::cold]] void expect_together(const PrefixedTensors<Scalar>& tensors, const Names& names) {
  for (const std::string_view name : names)
    for (const std::string_view other : names)
      if (tensors.has(name) && !tensors.has(other))
        raise(ErrorKind::file, tensors.source().where(), ": tensor ", tensors.name_in_file(other), " is missing, and ",
              tensors.name_in_file(name), " is there: public layers have both or none");
}

/// An integer that shapes cannot tell and that the public files always have.
template <class = void>
[[nodiscard]] Index required_integer(const Configuration& configuration, std::initializer_list<std::string_view> keys) {
  const auto value = configuration.integer(keys);
  if (value && *value >= 1) return *value;
  raise(ErrorKind::value, configuration.where(), ": key ", *keys.begin(), " is ", value ? message(*value) : std::string("missing"),
        ", expected an integer of at least 1: the shapes of the tensors cannot tell it");
}

/// Keys that stand in public files of a family and change nothing there.
template <class = void>
[[gnu::cold]] void ignore_keys(const Configuration& configuration, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) static_cast<void>(configuration.find(key));
}

/// Keys of flash-linear-attention's layers and models that say how the same numbers are computed, or what surrounds a layer.
template <class = void>
void ignore_flash_linear_attention_keys(const Configuration& configuration) {
  ignore_keys(configuration, {"mode", "attn_mode", "layer_idx", "fuse_norm", "fuse_swiglu", "fuse_cross_entropy",
                              "fuse_linear_cross_entropy", "use_l2warp", "hidden_ratio"});
}

/// A key whose text must be one of a few; the first of them is named as the one expected.
template <class = void>
[[gnu::cold]] void expect_text(const Configuration& configuration, std::string_view key, std::initializer_list<std::string_view> allowed,
                               std::string_view reason) {
  const std::optional<std::string> value = configuration.text({key});
  if (!value) return;
  for (const std::string_view text : allowed)
    if (*value == text) return;
  contradiction(configuration, key, printable(*value), std::string(*allowed.begin()), reason);
}

/// The vocabulary is the embedding's, as every public loader has it; Mamba's authors' code alone rounds it up to a multiple, of 8 where
/// their configuration does not say.
template <class = void>
[[gnu::cold]] void expect_vocabulary(const Configuration& configuration, Index rows) {
  const std::optional<Index> value = configuration.integer({"vocab_size"});
  const Index multiple = configuration.integer({"pad_vocab_size_multiple"}).value_or(configuration.integer({"d_model"}) ? 8 : 1),
              least = multiple > 0 && rows % multiple == 0 ? std::max<Index>(rows - multiple + 1, 1) : rows;
  if (value && (*value > rows || *value < least))
    raise(ErrorKind::value, configuration.where(), ": key vocab_size is ", *value, ", expected ",
          least < rows ? message(least, " to ", rows) : message(rows), ": the embedding has ", rows, " rows",
          least < rows ? message(", padded to a multiple of ", multiple) : std::string());
}

/// Fails on a factor that numbers of this precision cannot hold: it would be infinite, and the NaN in the logits would name no key.
template <Real S>
[[gnu::cold]] void expect_fits(const Configuration& configuration, std::string_view key, double factor) {
  if (std::isfinite(factor) && std::abs(factor) > static_cast<double>(std::numeric_limits<S>::max()))
    raise(ErrorKind::value, configuration.where(), ": key ", key, " is ", factor, ", expected at most ", std::numeric_limits<S>::max(),
          ": ", std::is_same_v<S, float> ? "float32" : "float64", " holds no more");
}
/// A factor that public configurations name.
template <Real S>
[[nodiscard, gnu::cold]] double read_factor(const Configuration& configuration, std::string_view key, double otherwise = 1) {
  const double factor = configuration.number({key}).value_or(otherwise);
  expect_fits<S>(configuration, key, factor);
  return factor;
}
/// As many factors, ones where the configuration has none.
template <Real S>
[[nodiscard, gnu::cold]] std::vector<double> read_factors(const Configuration& configuration, std::string_view key, std::size_t count) {
  std::vector<double> list = configuration.finite_numbers({key}).value_or(std::vector<double>(count, 1.0));
  if (list.size() != count)
    raise(ErrorKind::value, configuration.where(), ": key ", key, " has ", list.size(), " numbers, expected ", count);
  for (const double factor : list) expect_fits<S>(configuration, key, factor);
  return list;
}

/// A norm's eps, or another number that must be above zero; under several spellings, as in Configuration::positive_number.
template <class = void>
[[nodiscard]] double positive_number(const Configuration& configuration, std::initializer_list<std::string_view> spellings,
                                     double otherwise) {
  return configuration.positive_number(spellings).value_or(otherwise);
}

template <Real Scalar>
[[nodiscard, gnu::cold]] Norm<Scalar> read_rms_norm(const PrefixedTensors<Scalar>& tensors, const std::string& name, double eps,
                                                    bool one_plus = false) {
  return Norm<Scalar>::rms(tensors.required(name + ".weight", 1), eps, one_plus);
}
template <Real Scalar>
[[nodiscard, gnu::cold]] Norm<Scalar> read_layer_norm(const PrefixedTensors<Scalar>& tensors, const std::string& name, double eps,
                                                      bool biased = true) {
  const Array<Scalar> weight = tensors.required(name + ".weight", 1), bias = biased ? tensors.required(name + ".bias", 1) : Array<Scalar>();
  if (biased) check_vector("LayerNorm", name + ".bias", bias, weight.size(), "width");
  return Norm<Scalar>::layer(weight, bias, eps);
}

/// The head's weights: its own where the checkpoint has them, else the embedding's. Fails where the configuration says otherwise. Also
/// fails where it says nothing, the public port ties by default, and the stored head differs from the embedding: the port would silently
/// drop that head.
template <Real Scalar>
[[nodiscard, gnu::cold]] Array<Scalar> read_head(const TensorSource<Scalar>& source, const Configuration& configuration,
                                                 std::string_view name, const Array<Scalar>& embedding,
                                                 std::initializer_list<std::string_view> tied_spellings, bool tied_by_default) {
  bool told = configuration.keys().empty();  // without any configuration it is not known which port a file is for
  for (const std::string_view key : tied_spellings) {
    const std::optional<bool> tied = configuration.boolean({key});
    if (!tied) continue;
    told = true;
    if (!*tied && !source.has(name))
      contradiction<std::string_view>(configuration, key, "false", "true", message("there is no tensor ", source.name_in_file(name)));
    if (*tied && source.has(name) && !same_numbers(source.read(name), embedding))
      contradiction<std::string_view>(configuration, key, "true", "false",
                                      message("tensor ", source.name_in_file(name), " is another than the embedding"));
    tied_by_default = *tied;
  }
  if (!source.has(name) && tied_by_default) return embedding;
  if (!told && tied_by_default && !same_numbers(source.read(name), embedding))
    contradiction<std::string_view>(
        configuration, *tied_spellings.begin(), "missing", "false",
        message("tensor ", source.name_in_file(name), " is another than the embedding, and this model ties the two by default"));
  return PrefixedTensors<Scalar>(source, "").required(name, 2);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
