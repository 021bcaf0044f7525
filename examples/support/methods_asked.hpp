// The methods that a command line names, and what their numbers are.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/attribution/method_options.hpp>
#include <implicit_attention/operator/reduction.hpp>

#include "explanation.hpp"

namespace implicit_attention::examples {

/// A method, and its name as it was asked for: a dated name stays on what is written.
struct NamedMethod {
  Method method;
  std::string name;
};

/// The names of all methods.
[[nodiscard]] std::vector<std::string> attribution_method_names();
/// The names of those that can look at one layer, or at some of its heads.
[[nodiscard]] std::vector<std::string> layer_method_names(bool by_head = false);
/// The method of that name; fails (value) on any other, naming the option, all methods, and the one that is probably meant.
[[nodiscard]] Method method_named(std::string_view option, const std::string& name);
/// Fails (value) on a name that is unknown, or there twice.
[[nodiscard]] std::vector<NamedMethod> methods_of(const ExplanationOptions& options);
/// Whether a method's scores and the biases' share sum to what is explained.
[[nodiscard]] bool conserves(Method method, Terms terms);
/// What a method's numbers are.
[[nodiscard]] std::string value_name(Method method, const ExplanationOptions& options, ReductionKind reduction, Removal removal);

}  // namespace implicit_attention::examples
