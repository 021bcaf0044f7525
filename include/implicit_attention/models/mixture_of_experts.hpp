// Mixtures of experts: a feed-forward part in which a router chooses a few experts for every token, in the forms of Nemotron-H,
// Granite 4, Jamba, Kimi Linear and Qwen3.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/models/feed_forward.hpp>
#include <implicit_attention/trace/experts.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What a router makes of its logits (tokens, experts).
enum class RouterScores {
  softmax,         ///< softmax over all experts, then the best (Jamba, Qwen)
  chosen_softmax,  ///< the best logits, then a softmax over them alone (Granite)
  sigmoid          ///< sigmoid, then the best of score + correction bias; the bias does not weigh (Nemotron-H, Kimi)
};

/// With a router, experts and one shared expert:
///
///     s = scores(router u)      the best k of s + bias: e_1, ..., e_k      w = s of these [/ (sum + eps)] * scaling
///     out = fc2( sum_k w_k expert_k(fc1 u) ) + [sigmoid(shared_gate u)] shared(u)
///
/// Only the chosen experts run, each on the tokens that chose it. Which are chosen is held; w has its derivative, and is a scale in
/// relevance.
template <Real S>
class MixtureOfExperts {
 public:
  using Scalar = S;
  static constexpr std::string_view part_name = "MixtureOfExperts";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents

  struct Weights {
    Array<Scalar> router_weight;                     ///< (experts, D)
    Array<Scalar> correction_bias;                   ///< (experts), may be absent
    std::vector<GatedFeedForward<Scalar>> experts;   ///< of width D, or that of the latent projections
    std::optional<GatedFeedForward<Scalar>> shared;  ///< the expert that every token uses
    Array<Scalar> shared_gate_weight;                ///< (1, D), may be absent
    Array<Scalar> fc1_latent_weight;                 ///< (latent width, D): before the experts, may be absent
    Array<Scalar> fc1_latent_bias;                   ///< (latent width), may be absent
    Array<Scalar> fc2_latent_weight;                 ///< (D, latent width): behind their sum; there if fc1 is
    Array<Scalar> fc2_latent_bias;                   ///< (D), may be absent
  };

  struct Options {
    RouterScores scores = RouterScores::softmax;
    ExpertChoice choice;
    bool normalize = false;    ///< weights are divided by their sum + normalize_eps
    double normalize_eps = 0;  ///< 1e-20 in Nemotron-H and Kimi
    double scaling = 1;        ///< of the weights, after that
  };

  /// Where the tokens go.
  struct Routing {
    std::vector<Index> experts;  ///< (tokens, chosen) merged, best first
    Value<Scalar> weights;       ///< (tokens, chosen), as applied
  };

  /// Fails (ErrorKind::shape or ErrorKind::value) naming the tensor or the option.
  MixtureOfExperts(Weights weights, Options options);

  [[nodiscard]] Index width() const { return weights_.router_weight.cols(); }
  [[nodiscard]] Index experts() const { return static_cast<Index>(weights_.experts.size()); }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  [[nodiscard]] const Options& options() const { return options_; }

  /// The experts of u's tokens (tokens, D) and their weights.
  [[nodiscard]] Routing route(const Value<Scalar>& u) const;
  [[nodiscard]] Value<Scalar> run(const Value<Scalar>& u, RunContext<Scalar>& context) const;

 private:
  Weights weights_;
  Options options_;
};

template <Real S>
MixtureOfExperts<S>::MixtureOfExperts(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  if (w.experts.empty()) detail::raise(ErrorKind::shape, part_name, ": there are no experts, expected at least one");
  check_shape(part_name, "the router", w.router_weight, experts(), std::max(width(), Index(1)), "(experts, width)");
  detail::check_bias(part_name, "correction bias", w.correction_bias, experts(), "experts");
  Index inner = width();
  if (!w.fc1_latent_weight.empty() || !w.fc2_latent_weight.empty()) {
    inner = w.fc1_latent_weight.rows();
    check_shape(part_name, "fc1_latent_proj.weight", w.fc1_latent_weight, inner, width(), "(latent width, width)");
    detail::check_bias(part_name, "fc1_latent_proj.bias", w.fc1_latent_bias, inner, "latent width");
    check_shape(part_name, "fc2_latent_proj.weight", w.fc2_latent_weight, width(), inner, "(width, latent width)");
    detail::check_bias(part_name, "fc2_latent_proj.bias", w.fc2_latent_bias, width(), "width");
  }
  for (Index expert = 0; expert < experts(); ++expert)
    if (const Index came = w.experts[static_cast<std::size_t>(expert)].width(); came != inner)
      detail::raise(ErrorKind::shape, part_name, ": expert ", expert, " is ", came, " wide, expected ", inner);
  if (w.shared && w.shared->width() != width())
    detail::raise(ErrorKind::shape, part_name, ": the shared expert is ", w.shared->width(), " wide, expected ", width());
  if (!w.shared_gate_weight.empty()) {
    check_vector(part_name, "the shared expert's gate", w.shared_gate_weight, width(), "width");
    if (!w.shared) detail::raise(ErrorKind::shape, part_name, ": there is a gate of the shared expert, but no shared expert");
  }
  detail::check_choice(options_.choice, experts(), [](detail::ChoiceNumber number, Index value, const std::string& expected) {
    const char* const name = number == detail::ChoiceNumber::groups          ? "groups of experts"
                             : number == detail::ChoiceNumber::chosen_groups ? "groups to choose"
                                                                             : "experts per token";
    detail::raise(ErrorKind::value, part_name, ": ", name, " are ", value, ", expected ", expected);
  });
}

template <Real S>
typename MixtureOfExperts<S>::Routing MixtureOfExperts<S>::route(const Value<Scalar>& u) const {
  const Value<Scalar> logits = linear(u, weights_.router_weight);
  Value<Scalar> scores = logits;
  if (options_.scores == RouterScores::softmax) scores = softmax_rows(logits);
  if (options_.scores == RouterScores::sigmoid) scores = sigmoid(logits);
  Matrix<Scalar> compared = *scores;
  if (!weights_.correction_bias.empty()) compared.rowwise() += weights_.correction_bias.matrix().row(0);
  Routing routing;
  routing.experts = choose_experts<Scalar>(compared, options_.choice);
  Value<Scalar> weights = gather_chosen(scores, routing.experts);
  if (options_.scores == RouterScores::chosen_softmax) weights = softmax_rows(weights);
  if (options_.normalize) weights = divide_by_row_sum(weights, static_cast<Scalar>(options_.normalize_eps));
  routing.weights = times(weights, static_cast<Scalar>(options_.scaling));
  return routing;
}

template <Real S>
Value<S> MixtureOfExperts<S>::run(const Value<Scalar>& u, RunContext<Scalar>& context) const {
  const Weights& w = weights_;
  const Routing routing = route(u);
  const Value<Scalar> input = w.fc1_latent_weight.empty() ? u : linear(u, w.fc1_latent_weight, w.fc1_latent_bias);
  std::vector<ExpertOutput<Scalar>> all(w.experts.size()), used;
  for (std::size_t entry = 0; entry < routing.experts.size(); ++entry) {
    ExpertOutput<Scalar>& expert = all[static_cast<std::size_t>(routing.experts[entry])];
    expert.tokens.push_back(static_cast<Index>(entry) / options_.choice.chosen);
    expert.places.push_back(static_cast<Index>(entry) % options_.choice.chosen);
  }
  for (std::size_t expert = 0; expert < all.size(); ++expert) {
    if (all[expert].tokens.empty()) continue;
    all[expert].numbers = w.experts[expert].run(gather_rows(input, all[expert].tokens), context);
    used.push_back(std::move(all[expert]));
  }
  Value<Scalar> out = combine_experts(routing.weights, std::move(used));
  if (!w.fc2_latent_weight.empty()) out = linear(out, w.fc2_latent_weight, w.fc2_latent_bias);
  if (!w.shared) return out;
  Value<Scalar> shared = w.shared->run(u, context);
  if (!w.shared_gate_weight.empty()) shared = scale(spread_heads(sigmoid(linear(u, w.shared_gate_weight)), width()), shared);
  return add(out, shared);
}

/// Experts that stand by themselves: `experts.K.gate_proj.weight` below a prefix such as `model.layers.1.feed_forward.`, as many as
/// `count`; an empty name of the gate reads plain ones.
template <Real S>
[[nodiscard, gnu::cold]] std::vector<GatedFeedForward<S>> read_experts(const PrefixedTensors<S>& tensors, Index count,
                                                                       Function function = Function::silu,
                                                                       const std::string& gate = "gate_proj",
                                                                       const std::string& up = "up_proj",
                                                                       const std::string& down = "down_proj") {
  std::vector<GatedFeedForward<S>> experts;
  for (Index expert = 0; expert < count; ++expert)
    experts.push_back(GatedFeedForward<S>::from_tensors(
        PrefixedTensors<S>(tensors.source(), detail::message(tensors.prefix(), "experts.", expert, ".")), function, gate, up, down));
  return experts;
}

/// Experts stacked in two tensors: `first` (experts, 2M, D) with the gate's rows before those of the up projection, of plain experts
/// (`gated` false) (experts, M, D), and `down` (experts, D, M). Nothing is copied.
template <Real S>
[[nodiscard, gnu::cold]] std::vector<GatedFeedForward<S>> read_stacked_experts(const PrefixedTensors<S>& tensors, const std::string& first,
                                                                               const std::string& down, Function function = Function::silu,
                                                                               bool gated = true) {
  const Array<S> rows = tensors.required(first, 3), back = tensors.required(down, 3);
  const std::vector<Index> shape = *tensors.source().shape(tensors.prefix() + first);
  const std::vector<Index> other = *tensors.source().shape(tensors.prefix() + down);
  const Index parts = gated ? 2 : 1, count = shape[0], inner = shape[1] / parts, width = shape[2];
  if (shape[1] % parts != 0 || other != std::vector<Index>{count, width, inner})
    detail::raise(ErrorKind::shape, tensors.source().where(), ": tensors ", tensors.name_in_file(first), " ", shape_text(shape), " and ",
                  tensors.name_in_file(down), " ", shape_text(other), " do not fit, expected (experts, ", gated ? "2" : "",
                  "M, D) and (experts, D, M)");
  std::vector<GatedFeedForward<S>> experts;
  for (Index expert = 0; expert < count; ++expert) {
    typename GatedFeedForward<S>::Weights w;
    if (gated) w.gate_proj_weight = rows.middle_rows(expert * 2 * inner, inner);
    w.up_proj_weight = rows.middle_rows((expert + 1) * parts * inner - inner, inner);
    w.down_proj_weight = back.middle_rows(expert * width, width);
    experts.push_back(GatedFeedForward<S>(std::move(w), function));
  }
  return experts;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
