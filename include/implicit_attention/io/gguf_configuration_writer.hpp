// Keys of the public config.json files from GGUF's metadata: what all families have in common.
#pragma once

#include <algorithm>
#include <charconv>
#include <functional>
#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/io/gguf_keys.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A key of GGUF and the key of config.json that it becomes.
struct KeyPair {
  std::string_view gguf, ours;
};

/// Sets keys of config.json from those of GGUF: what families have in common. The keys and tensors must outlive it.
class GgufConfigurationWriter {
 public:
  using Tensors = std::map<std::string, CheckpointTensor, std::less<>>;
  GgufConfigurationWriter(const GgufKeys& keys, const Tensors& tensors) : keys_(&keys), tensors_(&tensors), made_(keys.where()) {}

  [[nodiscard]] const GgufKeys& keys() const { return *keys_; }
  /// What has been set.
  [[nodiscard]] Configuration take() { return std::move(made_); }

  template <class Value>
  void set(std::string_view key, Value value) {
    made_.set(std::string(key), std::move(value));
  }
  /// Kinds are listed layer by layer, so the number of layers is checked against the tensors first. Files of a few tensors, such as those
  /// that only hold multi-token prediction, have an error of their own later.
  void expect_layers_that_are_there() const {
    constexpr Index most_of_models = 1000;
    const Index layers = keys_->layers(), tensors = static_cast<Index>(tensors_->size()), most = std::max(tensors, most_of_models);
    if (layers > most)
      raise(ErrorKind::file, keys_->where(), ": metadata key ", keys_->architecture(), ".block_count makes ", layers,
            " layers, expected at most ", most, ": the file has ", tensors, " tensors");
  }
  void type(std::string_view name) { set("model_type", std::string(name)); }
  void integers(std::initializer_list<KeyPair> pairs) {
    for (const KeyPair& pair : pairs)
      if (const std::optional<Index> value = keys_->integer(pair.gguf)) set(pair.ours, *value);
  }
  /// Numbers that the file has as float32: 1e-5 is meant, not 9.99999974e-06.
  void numbers(std::initializer_list<KeyPair> pairs) {
    for (const KeyPair& pair : pairs)
      if (const std::optional<double> value = keys_->number(pair.gguf)) set(pair.ours, shortest(*value));
  }
  [[nodiscard]] static double shortest(double value) {
    const auto narrow = static_cast<float>(value);
    if (static_cast<double>(narrow) != value) return value;
    const std::string digits = message(narrow);
    double exact = value;
    std::from_chars(digits.data(), digits.data() + digits.size(), exact);
    return exact;
  }
  /// One kind a layer: kind(layer).
  template <class Kind>
  void layer_kinds(std::string_view key, Kind kind) {
    std::vector<std::string> all;
    for (Index layer = 0, layers = keys_->layers(); layer < layers; ++layer) all.push_back(kind(layer));
    set(key, std::move(all));
  }
  [[nodiscard]] bool has_tensor(std::string_view name) const { return tensors_->find(name) != tensors_->end(); }
  [[nodiscard]] bool has_attention(Index layer) const { return keys_->of_layer("attention.head_count_kv", layer) > 0; }
  /// One size over another, which must divide it.
  [[nodiscard]] Index ratio(std::string_view of, std::string_view to) const {
    const Index a = keys_->size(of), b = keys_->size(to);
    if (a % b != 0) raise(ErrorKind::file, keys_->where(), ": ", of, " is ", a, ", expected a multiple of ", to, ", ", b);
    return a / b;
  }
  [[noreturn]] void wrong(std::string_view key, std::string_view is, std::string_view expected) const {
    raise(ErrorKind::file, keys_->where(), ": metadata key ", keys_->architecture(), ".", key, " is ", is, ", expected ", expected);
  }
  /// Numbers of heads, their width, and the base of rotary positions.
  void attention_keys() {
    integers({{"attention.head_count", "num_attention_heads"},
              {"attention.head_count_kv", "num_key_value_heads"},
              {"attention.key_length", "head_dim"}});
    numbers({{"rope.freq_base", "rope_theta"}});
    const auto keys = keys_->integer("attention.key_length"), values = keys_->integer("attention.value_length");
    if (keys && values && *keys != *values)
      wrong("attention.value_length", message(*values), message(*keys, ", as attention.key_length is: values are as wide as keys"));
  }
  /// The share of a head's numbers that is rotated; nothing where the file does not say.
  [[nodiscard]] std::optional<double> rotated_part() {
    const auto rotated = keys_->number("rope.dimension_count");
    if (!rotated) return std::nullopt;
    const Index width = head_width();
    if (!(*rotated >= 0 && *rotated <= static_cast<double>(width)))
      wrong("rope.dimension_count", message(*rotated), message("0 to ", width, ", the width of a head"));
    return *rotated / static_cast<double>(width);
  }
  [[nodiscard]] Index head_width() {
    const auto width = keys_->integer("attention.key_length");
    return width && *width > 0 ? *width : ratio("embedding_length", "attention.head_count");
  }
  void expect_whole_rotation() {
    if (const auto part = rotated_part(); part && *part != 1)
      wrong("rope.dimension_count", message(*keys_->number("rope.dimension_count")), "the width of a head, all of which is rotated");
  }
  /// Fails unless experts are scored as this family does it: 1 is a softmax, 2 a sigmoid.
  void expect_scores(Index scores) {
    if (const auto given = keys_->integer("expert_gating_func"); given && *given != 0 && *given != scores)
      wrong("expert_gating_func", message(*given), message(scores, scores == 1 ? " (softmax)" : " (sigmoid)"));
  }
  void expect_experts(Index scores, bool normalised) {
    expect_scores(scores);
    if (const auto given = keys_->boolean("expert_weights_norm"); given && *given != normalised)
      wrong("expert_weights_norm", *given ? "true" : "false", normalised ? "true" : "false");
  }
  void expert_keys() {
    if (keys_->integer("expert_count").value_or(0) > 0)
      integers({{"expert_used_count", "num_experts_per_tok"}, {"expert_feed_forward_length", "moe_intermediate_size"}});
  }

 private:
  const GgufKeys* keys_;
  const Tensors* tensors_;
  Configuration made_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
