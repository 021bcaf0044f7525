#include "methods_asked.hpp"

#include <algorithm>

#include <implicit_attention/core/error.hpp>

#include "command_line.hpp"
#include "nearest_name.hpp"

namespace implicit_attention::examples {

std::vector<std::string> attribution_method_names() {
  std::vector<std::string> names;
  for (const MethodName& method : method_names) names.emplace_back(method.name);
  return names;
}

std::vector<std::string> layer_method_names(bool by_head) {
  std::vector<std::string> names;
  for (const MethodName& method : method_names)
    if (by_head ? method.by_head : method.layer_mean) names.emplace_back(method.name);
  return names;
}

Method method_named(std::string_view option, const std::string& name) {
  try {
    return parse_method(name);
  } catch (const Error& error) {
    detail::raise(error.kind(), option, ": ", error.what(), perhaps(name, attribution_method_names()));
  }
}

std::vector<NamedMethod> methods_of(const ExplanationOptions& options) {
  std::vector<NamedMethod> list;
  for (const std::string& name : split_list(options.methods)) {
    const Method named = method_named("--method", name);
    if (std::any_of(list.begin(), list.end(), [&](const NamedMethod& other) { return other.method == named; }))
      detail::raise(ErrorKind::value, "--method: ", name, " appears twice");
    list.push_back({named, name});
  }
  return list;
}

bool conserves(Method method, Terms terms) {
  return method == Method::relevance || (method == Method::vector_rollout && terms == Terms::all());
}

std::string value_name(Method method, const ExplanationOptions& options, ReductionKind reduction, Removal removal) {
  const std::string map = reduction_text(reduction), logit = options.contrast.empty() ? "the logit" : "the difference of logits";
  const auto in_layer = [&] {
    if (!options.layer) return std::string(", mean over layers");
    return detail::message(" in layer ", *options.layer,
                           options.heads.empty() ? std::string() : detail::message(", heads ", options.heads));
  };
  switch (method) {
    case Method::raw:
      return map + (options.layer ? detail::message(" of layer ", *options.layer) : std::string(" and layers"));
    case Method::rollout:
      return "row of the rollout of " + map;
    case Method::gradient:
      return "row of the rollout of gradient times attention, where positive";
    case Method::gradient_mean:
      return "rollout of mean gradient times mean attention";
    case Method::gradient_maximum:
      return "rollout of attention times the largest gradient of each token";
    case Method::relevance:
      return "share of " + logit;
    case Method::vector_rollout:
      return "share of " + logit + ", attention held";
    case Method::relevance_attention:
      return "what attention moves of " + logit + in_layer();
    case Method::edge_map:
      return "what the token's edges are worth to " + logit + in_layer();
    case Method::contribution_norms:
      return "length of the token's vector" +
             (options.layer ? detail::message(" in layer ", *options.layer) : std::string(", mean over layers"));
    case Method::contribution_rollout:
      return "share of the position's vectors";
    case Method::alti_logit:
      return "share of the direct parts of " + logit;
    case Method::gradient_x_input:
      return "gradient times embedding";
    case Method::integrated_gradients:
      return "share of " + logit + ", from " +
             (options.baseline == "zero"   ? std::string("embeddings of zero")
              : options.baseline == "mean" ? std::string("the mean embedding")
                                           : "the embedding of " + options.baseline) +
             " on";
    case Method::leave_one_out:
      return std::string(removal == Removal::replace ? "what <unk>" : "what a zero embedding") + " in its place takes from " + logit;
    case Method::random:
      break;
  }
  return "random numbers";
}

}  // namespace implicit_attention::examples
