// The methods by name, what they explain, and their options.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <implicit_attention/attribution/rollout.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The attribution methods.
enum class Method {
  raw,
  rollout,
  gradient,          ///< gradient times attention, exact (arXiv 2103.15679 carried over)
  gradient_mean,     ///< mean gradient times mean attention (arXiv 2403.01590)
  gradient_maximum,  ///< attention times each token's largest gradient (arXiv 2405.16504)
  relevance,
  vector_rollout,        ///< every layer's vector path, attention and norms held: one linear walk
  relevance_attention,   ///< what each layer's own attention moves along that walk, mean over layers
  edge_map,              ///< what each edge of a layer is worth under the exact gradient, mean over layers
  contribution_norms,    ///< norms of each token's vectors after the output projection, mean over layers
  contribution_rollout,  ///< norms of each token's vectors after the output projection, rolled out
  alti_logit,            ///< the logit's direct parts, shared out by how near each token's vectors come (arXiv 2305.12535)
  gradient_x_input,
  integrated_gradients,
  leave_one_out,
  random,
  gradient_2403_01590 [[deprecated("renamed: gradient_mean")]] = gradient_mean,
  gradient_2405_16504 [[deprecated("renamed: gradient_maximum")]] = gradient_maximum
};

/// A method, its name on command lines, and what its caller has to know about it.
struct MethodName {
  Method method;
  std::string_view name;
  bool from_attention = false;    ///< whether it depends on which terms of the attention are on
  bool from_gradient = false;     ///< whether it needs the exact gradient
  bool has_map = from_attention;  ///< whether it has a map over tokens
  bool from_vectors = false;      ///< whether it is made of each token's vectors behind the output projection
  bool of_position = false;       ///< whether it explains the position alone, and not one token's logit there
  bool sums_columns = false;      ///< whether its scores are the sums of its map's columns, and not the position's row
  bool layer_mean = false;        ///< whether its scores are a mean over layers, so that one layer can be asked for
  bool by_head = false;           ///< whether it can be asked for heads of such a layer
  bool reads_layers = true;       ///< whether it reads the layers of the text's run; the others run the model anew, or not at all
  bool serves_targets = false;    ///< whether several targets cost little more than one, see Explainer::explain_each
  bool quadratic = false;         ///< whether its time grows with the square of the tokens

  /// Whether its scores are the mean over layers of the position's row, for which nothing is needed that comes after the layer.
  [[nodiscard]] constexpr bool is_mean_row() const { return layer_mean && of_position; }
};
// clang-format off
inline constexpr std::array<MethodName, 16> method_names{{
    {.method = Method::raw, .name = "raw", .from_attention = true, .of_position = true, .layer_mean = true, .serves_targets = true},
    {.method = Method::rollout, .name = "rollout", .from_attention = true, .of_position = true, .serves_targets = true, .quadratic = true},
    {.method = Method::gradient, .name = "gradient", .from_attention = true, .from_gradient = true, .quadratic = true},
    {.method = Method::gradient_mean, .name = "gradient-mean", .from_attention = true, .from_gradient = true, .quadratic = true},
    {.method = Method::gradient_maximum, .name = "gradient-maximum", .from_attention = true, .from_gradient = true, .quadratic = true},
    {.method = Method::relevance, .name = "relevance"},
    {.method = Method::vector_rollout, .name = "vector-rollout", .from_attention = true, .has_map = false},
    {.method = Method::relevance_attention, .name = "relevance-attention", .from_attention = true, .has_map = false, .layer_mean = true, .by_head = true},
    {.method = Method::edge_map, .name = "edge-map", .from_attention = true, .from_gradient = true, .sums_columns = true, .layer_mean = true, .by_head = true},
    {.method = Method::contribution_norms, .name = "contribution-norms", .from_attention = true, .from_vectors = true, .of_position = true, .layer_mean = true, .serves_targets = true},
    {.method = Method::contribution_rollout, .name = "contribution-rollout", .from_attention = true, .from_vectors = true, .of_position = true, .serves_targets = true, .quadratic = true},
    {.method = Method::alti_logit, .name = "alti-logit", .from_attention = true, .has_map = false, .from_vectors = true, .serves_targets = true, .quadratic = true},
    {.method = Method::gradient_x_input, .name = "gradient-x-input", .from_gradient = true},
    {.method = Method::integrated_gradients, .name = "integrated-gradients", .reads_layers = false},
    {.method = Method::leave_one_out, .name = "leave-one-out", .reads_layers = false, .serves_targets = true, .quadratic = true},
    {.method = Method::random, .name = "random", .of_position = true, .reads_layers = false},
}};
// clang-format on

[[nodiscard]] inline const MethodName& method_info(Method method) {
  return *std::find_if(method_names.begin(), method_names.end(), [&](const MethodName& named) { return named.method == method; });
}

/// Reads a method's name, or one of the dated names that two of them had; fails on any other, naming them all.
[[nodiscard]] inline Method parse_method(std::string_view name) {
  if (name == "gradient-2403.01590") return Method::gradient_mean;
  if (name == "gradient-2405.16504") return Method::gradient_maximum;
  std::string all;
  for (const MethodName& named : method_names) {
    if (named.name == name) return named.method;
    all += detail::message(all.empty() ? "" : ", ", named.name);
  }
  detail::raise(ErrorKind::value, "unknown method \"", name, "\", expected one of ", all);
}

/// What is explained: the logit of `token` at `position`, less that of `contrast` if there is one.
struct Target {
  Index position = 0;
  Index token = 0;
  std::optional<Index> contrast;
};

/// One thing to explain at each of several positions: targets for the matrix forms.
[[nodiscard]] inline std::vector<Target> targets_at(const std::vector<Index>& positions, Index token,
                                                    std::optional<Index> contrast = std::nullopt) {
  std::vector<Target> targets;
  targets.reserve(positions.size());
  for (const Index position : positions) targets.push_back({position, token, contrast});
  return targets;
}

namespace detail {
template <class = void>
[[nodiscard]] std::vector<Index> positions_of(const std::vector<Target>& targets) {
  std::vector<Index> positions;
  positions.reserve(targets.size());
  for (const Target& target : targets) positions.push_back(target.position);
  return positions;
}
}  // namespace detail

/// How a token is removed (leave-one-out).
enum class Removal {
  replace,  ///< another token in its place: `<unk>`, say
  zero,     ///< an embedding of zeros in its place
  drop      ///< the text without it; if it stood at the explained position, the token before it is asked
};

/// The methods' options; each method reads those that concern it.
template <Real Scalar>
struct MethodOptions {
  Terms terms = Terms::all();                         ///< methods from attention: which formulation
  ReductionKind reduction = ReductionKind::mean_abs;  ///< raw, rollout: how channels become one map
  std::optional<Index> layer;                         ///< raw, relevance-attention, edge-map, contribution-norms: this one; else the mean
  std::vector<Index> heads;  ///< relevance-attention, edge-map: heads of `layer`, numbered in sequence over its mixers; none: all of it
  RolloutOptions<Scalar> rollout;       ///< rollout: all of it; the gradient forms: the start layer
  bool with_map = false;                ///< methods from attention: the whole map, too
  Index integration_steps = 0;          ///< integrated gradients: this many even points; 0: as many as the tolerance takes
  double integration_tolerance = 0.01;  ///< integrated gradients: of the completeness gap, see IntegrationLimits
  Array<Scalar> baseline;               ///< integrated gradients: (1, width), every token's; empty: zeros
  Removal removal = Removal::zero;      ///< leave-one-out
  Index replacement = 0;                ///< leave-one-out: the token for Removal::replace
  std::uint64_t seed = 0;               ///< random
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
