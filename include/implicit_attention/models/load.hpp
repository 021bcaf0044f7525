// A language model of whichever architecture a checkpoint holds.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <implicit_attention/core/edit_distance.hpp>
#include <implicit_attention/core/text.hpp>
#include <implicit_attention/models/families.hpp>
#include <implicit_attention/models/tensor_names.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A checkpoint's tensors, under the prefix that a family's own files have.
template <Real Scalar>
[[nodiscard]] RenamedTensors<Scalar> tensors_as_of(const ModelFamily<Scalar>& family, const TensorSource<Scalar>& source,
                                                   const std::optional<std::string>& stored) {
  const bool renamed = stored && !family.prefix.empty() && *stored != family.prefix;
  return RenamedTensors<Scalar>(source, renamed ? *stored : "", renamed ? std::string(family.prefix) : "");
}

/// The family of a checkpoint; nothing if it is of none. Fails where `model_type` is one thing and the tensors are those of another.
template <Real Scalar>
[[nodiscard]] const ModelFamily<Scalar>* family_of(const TensorSource<Scalar>& source, const Configuration& configuration,
                                                   const std::optional<std::string>& stored) {
  const auto recognises = [&](const ModelFamily<Scalar>& family, const Configuration& told) {
    return family.recognises(CheckpointFacts(tensors_as_of(family, source, stored).names(), told));
  };
  const auto first = [&](const Configuration& told) -> const ModelFamily<Scalar>* {
    for (const ModelFamily<Scalar>& family : model_families<Scalar>())
      if (recognises(family, told)) return &family;
    return nullptr;
  };
  const ModelFamily<Scalar>* const by_type = first(configuration);
  const std::optional<std::string> type = configuration.text({"model_type"});
  if (!type || (by_type && recognises(*by_type, {}))) return by_type;
  const ModelFamily<Scalar>* const by_tensors = first({});
  const auto may_be = [&](const ModelFamily<Scalar>& family) {
    const auto& keys = family.like_keys;
    return family.like == by_tensors->name &&
           (keys[0].empty() || std::any_of(keys.begin(), keys.end(), [&](std::string_view key) { return configuration.has(key); }));
  };
  if (by_tensors && (!by_type || (by_type != by_tensors && !may_be(*by_type))))
    raise(ErrorKind::value, configuration.where(), ": key model_type is ", printable(*type), ", expected ", by_tensors->name,
          ": the tensors are those of ", by_tensors->title);
  return by_type;
}

/// Fails where a configuration without `model_type` names the public class of another family: some families have the same tensors.
template <Real Scalar>
[[gnu::cold]] void expect_class_of(const ModelFamily<Scalar>& family, const Configuration& configuration) {
  if (configuration.has("model_type") || !configuration.has("architectures")) return;
  const auto* const classes = std::get_if<std::vector<std::string>>(configuration.find("architectures"));
  const auto names = [&](const ModelFamily<Scalar>& of) {
    return std::find(classes->begin(), classes->end(), of.architecture) != classes->end();
  };
  if (classes == nullptr || names(family)) return;
  for (const ModelFamily<Scalar>& other : model_families<Scalar>())
    if (other.like == family.name && names(other) && !configuration.boolean({"use_bcdt_rms"}).value_or(false))
      raise(ErrorKind::value, configuration.where(), ": key model_type is missing, expected ", other.name, ": key architectures is ",
            other.architecture, ", and without model_type the tensors are taken for ", family.architecture);
}

/// Says that a checkpoint is of no family: what it is, the families that are nearest to it, by `model_type` or the first tensor's name, and
/// where the others are.
template <Real Scalar>
[[nodiscard]] std::string unknown_family(const TensorSource<Scalar>& source, const Configuration& configuration) {
  constexpr std::size_t shown = 3, longest = 100;
  const std::vector<std::string> names = source.names();
  const std::optional<std::string> type = configuration.text({"model_type"});
  const std::string first = names.empty() ? std::string() : names.front();
  const std::string_view word = std::string_view(type ? *type : first).substr(0, longest);
  std::vector<std::pair<std::size_t, const ModelFamily<Scalar>*>> ranked;
  for (const ModelFamily<Scalar>& family : model_families<Scalar>())
    ranked.emplace_back(edit_distance(word, type ? family.name : family.tensors), &family);
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::string nearest;
  for (std::size_t i = 0; i < shown; ++i)
    nearest +=
        message(i == 0 ? "" : "; ", ranked[i].second->title, ", model_type ", ranked[i].second->name, ": ", ranked[i].second->tensors);
  return message(source.where(), ": the tensors are those of no model known here",
                 type ? message(", and model_type is ", printable(*type)) : std::string(),
                 names.empty() ? "; there are none" : "; the first is ", printable(first), "; expected (", nearest, "), or one of ",
                 ranked.size() - shown, " others, which README.md lists below Architectures");
}

}  // namespace detail

/// Reads a language model of any family in models/families.hpp: `model_type` tells which, or, without it, the names of the tensors.
/// Prefixes that wrappers put before all names are taken off, and where a family's own prefix is another or missing, as in files of base
/// models, it is found. Every tensor is used or named in an error (rotary tables and the like aside), and so is every configuration key
/// that is not understood. Fails (ErrorKind::file) where the names are those of no family.
template <Real Scalar>
[[nodiscard, gnu::cold]] LanguageModel<Scalar> load_language_model(const TensorSource<Scalar>& source,
                                                                   const Configuration& configuration = {}) {
  detail::expect_not_quantised(configuration);
  const detail::NamesRead names;
  const WatchedTensors<Scalar> watched(source);
  const detail::RenamedTensors<Scalar> unwrapped(watched, detail::wrapper_prefix(source.names()), "");
  const std::optional<std::string> stored = detail::layer_prefix(unwrapped.names());
  if (const ModelFamily<Scalar>* const family = detail::family_of<Scalar>(unwrapped, configuration, stored)) {
    detail::expect_class_of(*family, configuration);
    LanguageModel<Scalar> model = family->load(detail::tensors_as_of<Scalar>(*family, unwrapped, stored), configuration);
    detail::expect_all_used(watched, family->architecture);
    detail::expect_same_biases(source);
    detail::expect_all_understood(configuration, family->architecture);
    return model;
  }
  detail::raise(ErrorKind::file, detail::unknown_family(source, configuration));
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
