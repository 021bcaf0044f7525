// A language model of whichever architecture a checkpoint holds.
#pragma once

#include <string>
#include <vector>

#include <implicit_attention/models/families.hpp>
#include <implicit_attention/models/tensor_names.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Reads a language model of any family in models/families.hpp: `model_type` tells which, or, without it, the names of the tensors.
/// Prefixes that wrappers put before all names are taken off, and where a family's own prefix is another or missing, as in files of base
/// models, it is found. Every tensor is used or named in an error (rotary tables and the like aside), and so is every configuration key that is not understood.
/// Fails (ErrorKind::file) where the names are those of no family.
template <Real Scalar>
[[nodiscard]] LanguageModel<Scalar> load_language_model(const TensorSource<Scalar>& source, const Configuration& configuration = {}) {
  const WatchedTensors<Scalar> watched(source);
  const detail::RenamedTensors<Scalar> unwrapped(watched, detail::wrapper_prefix(source.names()), "");
  const std::optional<std::string> stored = detail::layer_prefix(unwrapped.names());
  for (const ModelFamily<Scalar>& family : model_families<Scalar>()) {
    const bool renamed = stored && !family.prefix.empty() && *stored != family.prefix;
    const detail::RenamedTensors<Scalar> tensors(unwrapped, renamed ? *stored : "", renamed ? std::string(family.prefix) : "");
    if (!family.recognises(detail::CheckpointFacts(tensors.names(), configuration))) continue;
    LanguageModel<Scalar> model = family.load(tensors, configuration);
    detail::expect_same_biases(source.names(), source.where());
    detail::expect_all_used(watched, family.architecture);
    detail::expect_all_understood(configuration, family.architecture);
    return model;
  }
  std::string known;
  for (const ModelFamily<Scalar>& family : model_families<Scalar>())
    known += message(known.empty() ? "" : "; ", family.title, ": ", family.tensors);
  const std::vector<std::string> names = source.names();
  const std::optional<std::string> type = configuration.text({"model_type"});
  raise(ErrorKind::file, message(source.where(), ": the tensors are those of no model known here",
                                 type ? message(", and model_type is ", *type) : std::string(), ", expected one of (", known, ")",
                                 names.empty() ? "; there are none" : "; the first is ", names.empty() ? std::string() : names.front()));
}

IMPLICIT_ATTENTION_NAMESPACE_END
