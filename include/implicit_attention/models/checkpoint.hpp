// What the readers of public checkpoints share: counting layers, tied heads, and configuration keys held against the weights.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/models/norms.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

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
  if (count == 0) raise(ErrorKind::file, message(source.where(), ": there are no tensors ", prefix, "0.*, expected at least one layer"));
  return count;
}

/// A key that is there and says something else than the weights is an error.
template <class Value>
[[noreturn]] void contradiction(const Configuration& configuration, std::string_view key, const Value& value, const Value& expected,
                                std::string_view reason) {
  raise(ErrorKind::value, message(configuration.where(), ": key ", key, " is ", value, ", expected ", expected, ": ", reason));
}

inline void expect_integer(const Configuration& configuration, std::initializer_list<std::string_view> spellings, Index expected,
                           std::string_view reason) {
  for (const std::string_view key : spellings)
    if (const std::optional<Index> value = configuration.integer({key}); value && *value != expected)
      contradiction(configuration, key, *value, expected, reason);
}

inline void expect_boolean(const Configuration& configuration, std::initializer_list<std::string_view> spellings, bool expected,
                           std::string_view reason) {
  const auto text = [](bool value) { return std::string_view(value ? "true" : "false"); };
  for (const std::string_view key : spellings)
    if (const std::optional<bool> value = configuration.boolean({key}); value && *value != expected)
      contradiction(configuration, key, text(*value), text(expected), reason);
}

/// A key whose text must be one of a few; the first of them is named as the one expected.
inline void expect_text(const Configuration& configuration, std::string_view key, std::initializer_list<std::string_view> allowed,
                        std::string_view reason) {
  const std::optional<std::string> value = configuration.text({key});
  if (!value) return;
  for (const std::string_view text : allowed)
    if (*value == text) return;
  contradiction(configuration, key, std::string_view(*value), *allowed.begin(), reason);
}

/// The vocabulary may be smaller than the embedding, which is padded, but not larger.
inline void expect_vocabulary(const Configuration& configuration, Index rows) {
  if (const std::optional<Index> value = configuration.integer({"vocab_size"}); value && (*value > rows || *value < 1))
    raise(ErrorKind::value,
          message(configuration.where(), ": key vocab_size is ", *value, ", expected 1 to ", rows, ": the embedding has that many rows"));
}

/// A norm's eps, or another number that must be above zero.
[[nodiscard]] inline double positive_number(const Configuration& configuration, std::initializer_list<std::string_view> spellings,
                                            double otherwise) {
  for (const std::string_view key : spellings)
    if (const std::optional<double> value = configuration.number({key})) {
      if (!(*value > 0) || !std::isfinite(*value))
        raise(ErrorKind::value, message(configuration.where(), ": key ", key, " is ", *value, ", expected a number above 0"));
      return *value;
    }
  return otherwise;
}

template <Real Scalar>
[[nodiscard]] Norm<Scalar> read_rms_norm(const PrefixedTensors<Scalar>& tensors, const std::string& name, double eps,
                                         bool one_plus = false) {
  return Norm<Scalar>::rms(tensors.required(name + ".weight", 1), eps, one_plus);
}
template <Real Scalar>
[[nodiscard]] Norm<Scalar> read_layer_norm(const PrefixedTensors<Scalar>& tensors, const std::string& name, double eps) {
  return Norm<Scalar>::layer(tensors.required(name + ".weight", 1), tensors.required(name + ".bias", 1), eps);
}

template <Real Scalar>
[[nodiscard]] bool same_numbers(const Array<Scalar>& a, const Array<Scalar>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  for (Index row = 0; row < a.rows(); ++row)
    for (Index column = 0; column < a.cols(); ++column)
      if (a(row, column) != b(row, column) && !(std::isnan(a(row, column)) && std::isnan(b(row, column)))) return false;
  return true;
}

/// The head's weights: its own where the checkpoint has them, else the embedding's. Fails where the configuration says otherwise.
template <Real Scalar>
[[nodiscard]] Array<Scalar> read_head(const TensorSource<Scalar>& source, const Configuration& configuration, std::string_view name,
                                      const Array<Scalar>& embedding, std::initializer_list<std::string_view> tied_spellings,
                                      bool tied_by_default) {
  for (const std::string_view key : tied_spellings) {
    const std::optional<bool> tied = configuration.boolean({key});
    if (!tied) continue;
    if (!*tied && !source.has(name))
      contradiction<std::string_view>(configuration, key, "false", "true", message("there is no tensor ", name));
    if (*tied && source.has(name) && !same_numbers(source.read(name), embedding))
      contradiction<std::string_view>(configuration, key, "true", "false", message("tensor ", name, " is another than the embedding"));
    tied_by_default = *tied;
  }
  if (!source.has(name) && tied_by_default) return embedding;
  return PrefixedTensors<Scalar>(source, "").required(name, 2);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
