// The methods that `explain` knows, by name. A new one is a function here and a line in `methods`.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/attribution/result.hpp>
#include <implicit_attention/models/language_model.hpp>

#include "working.hpp"

namespace implicit_attention::examples {

/// What a method is asked: why does the model say at `position` what it says?
template <Real Scalar>
struct Question {
  const LanguageModel<Scalar>& model;
  const ForwardPass<Scalar>& pass;  ///< with what Keep::residuals keeps
  Index position = 0;               ///< the output token
  Index target = 0;                 ///< the vocabulary's token whose logit is asked about: the likeliest
  std::optional<Index> layer;       ///< for methods that can look at one layer alone
  Terms terms = Terms::all();
  ReductionKind reduction = ReductionKind::mean_abs;
  bool map = false;  ///< whether the method's map is wanted too, where it has one
  Work& work;        ///< a piece of work for each layer
};

/// A way to answer.
template <Real Scalar>
struct Method {
  std::string_view name;                                            ///< on the command line
  std::string_view summary;                                         ///< in the help
  bool one_layer;                                                   ///< whether Question::layer means anything to it
  Attribution<Scalar> (*answer)(const Question<Scalar>& question);  ///< scores of `position`; a map if it was wanted and there is one
  std::string (*value_name)(const Question<Scalar>& question);      ///< what the numbers are, for legends
};

/// All methods, in the order of the help.
template <Real Scalar>
[[nodiscard]] const std::vector<Method<Scalar>>& methods();
/// The names, `raw|rollout|...`.
[[nodiscard]] std::string method_names();
/// The method of that name. Fails (value), naming those there are.
template <Real Scalar>
[[nodiscard]] const Method<Scalar>& find_method(std::string_view name);

}  // namespace implicit_attention::examples
