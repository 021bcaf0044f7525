// Names of tensors as files have them: prefixes that a wrapper or a base model puts before them or leaves out, and layers that lost a bias.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/core/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

template <class = void>
[[nodiscard]] bool begins_with(std::string_view name, std::string_view prefix) {
  return name.substr(0, prefix.size()) == prefix;
}

/// A source whose names begin with `stored` where readers expect `expected`. A head stands outside the model that other names lie in, and
/// keeps its name where `stored` is empty. The source that it reads from must outlive it.
template <class Scalar>
class RenamedTensors final : public TensorSource<Scalar> {
 public:
  RenamedTensors(const TensorSource<Scalar>& source, std::string stored, std::string expected)
      : source_(&source), stored_(std::move(stored)), expected_(std::move(expected)) {}

  [[nodiscard]] std::string where() const override { return source_->where(); }
  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> all = source_->names();
    for (std::string& name : all)
      if (begins_with(name, stored_) && !outside(name)) name = expected_ + name.substr(stored_.size());
    std::sort(all.begin(), all.end());
    return all;
  }
  [[nodiscard]] std::optional<std::vector<Index>> shape(std::string_view name) const override { return source_->shape(stored_name(name)); }
  [[nodiscard]] Array<Scalar> read(std::string_view name) const override { return source_->read(stored_name(name)); }
  [[nodiscard]] std::string name_in_file(std::string_view name) const override { return source_->name_in_file(stored_name(name)); }

 private:
  [[nodiscard]] bool outside(std::string_view name) const { return stored_.empty() && begins_with(name, "lm_head."); }
  [[nodiscard]] std::string stored_name(std::string_view name) const {
    if (!begins_with(name, expected_) || outside(name)) return std::string(name);
    return stored_ + std::string(name.substr(expected_.size()));
  }

  const TensorSource<Scalar>* source_;
  std::string stored_, expected_;
};

/// Whether a tensor is of extra prediction heads or of a vision tower, which the text model does not use.
template <class = void>
[[nodiscard]] bool is_beside_the_text(std::string_view name) {
  return begins_with(name, "mtp.") || name.find(".mtp.") != std::string_view::npos ||
         name.find("model.visual.") != std::string_view::npos || begins_with(name, "visual.");
}

/// What wrappers put before every name: data parallelism, compilation, adapters, and models that hold a whole language model, its head
/// included: multimodal ones, or a training loop's under the name `model`.
template <class = void>
[[nodiscard]] std::string wrapper_prefix(const std::vector<std::string>& names) {
  std::string prefix;
  constexpr int most = 8;  // wrappers in one another: names are untrusted, and every round reads all of them
  bool found = !names.empty();
  for (int round = 0; found && round < most; ++round) {
    found = false;
    for (const std::string_view wrapper : {"module.", "_orig_mod.", "base_model.model."})
      if (std::all_of(names.begin(), names.end(),
                      [&](const std::string& name) { return begins_with(name, prefix + std::string(wrapper)); })) {
        prefix += wrapper;
        found = true;
      }
    for (const std::string_view wrapper : {"language_model.", "model.language_model.", "model."}) {
      const std::string longer = prefix + std::string(wrapper);
      const auto begins = [&](const std::string& end) {
        return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return begins_with(name, longer + end); });
      };
      if (found || !(begins("lm_head.") || begins("head.")) || !std::all_of(names.begin(), names.end(), [&](const std::string& name) {
            return begins_with(name, longer) || is_beside_the_text(name);
          }))
        continue;
      prefix = longer;
      found = true;
    }
  }
  return prefix;
}

/// What stands before `layers.N.` in the names, if it is the same everywhere; extra prediction heads do not count.
template <class = void>
[[nodiscard]] std::optional<std::string> layer_prefix(const std::vector<std::string>& names) {
  std::optional<std::string> prefix;
  for (const std::string& name : names) {
    const std::size_t at = name.find("layers.");
    if (at == std::string::npos || begins_with(name, "mtp.") || (at != 0 && name[at - 1] != '.')) continue;
    if (at + 7 >= name.size() || name[at + 7] < '0' || name[at + 7] > '9') continue;
    if (prefix && *prefix != name.substr(0, at)) return std::nullopt;
    prefix = name.substr(0, at);
  }
  return prefix;
}

/// Fails where one layer lacks a bias that another layer with the same other tensors has: it was lost, and would be taken for zero.
template <class Scalar>
[[gnu::cold]] void expect_same_biases(const TensorSource<Scalar>& source) {
  const auto weight_of = [](const std::string& bias) { return bias.substr(0, bias.size() - 4) + "weight"; };
  struct Layer {
    std::string prefix;
    std::set<std::string> biases, others;
  };
  std::map<std::string, Layer> layers;
  for (const std::string& name : source.names()) {
    if (is_beside_the_text(name)) continue;
    for (const std::string_view word : {"layers.", "blocks."}) {
      const std::size_t at = name.find(word);
      if (at == std::string::npos || (at != 0 && name[at - 1] != '.')) continue;
      const std::size_t end = name.find('.', at + word.size());
      if (end == std::string::npos) continue;
      Layer& layer = layers[name.substr(0, end + 1)];
      layer.prefix = name.substr(0, end + 1);
      const std::string inner = name.substr(end + 1);
      const bool bias = inner.size() > 5 && inner.compare(inner.size() - 5, 5, ".bias") == 0;
      (bias ? layer.biases : layer.others).insert(inner);
      break;
    }
  }
  std::vector<const Layer*> kinds;
  for (const auto& named : layers) {
    const Layer& layer = named.second;
    const auto same = std::find_if(kinds.begin(), kinds.end(), [&](const Layer* kind) { return kind->others == layer.others; });
    if (same == kinds.end()) {
      kinds.push_back(&layer);
      continue;
    }
    const Layer& before = **same;
    for (const auto& [has, lacks] : {std::pair(&before, &layer), std::pair(&layer, &before)})
      for (const std::string& bias : has->biases)
        if (lacks->biases.find(bias) == lacks->biases.end() && lacks->others.find(weight_of(bias)) != lacks->others.end())
          raise(ErrorKind::file, source.where(), ": tensor ", printable(source.name_in_file(lacks->prefix + bias)), " is missing, and ",
                printable(source.name_in_file(has->prefix + bias)),
                " is there and the layers are of one kind: it was lost, and would be taken for zero");
  }
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
