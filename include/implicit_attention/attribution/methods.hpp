// Every method by its name, for a whole language model: what a command line or an evaluation calls. Forward and backward passes are run
// once and shared between methods.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/baselines.hpp>
#include <implicit_attention/attribution/gradient.hpp>
#include <implicit_attention/models/relevance.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The attribution methods.
enum class Method {
  raw,
  rollout,
  gradient,
  gradient_2403_01590,
  gradient_2405_16504,
  relevance,
  gradient_x_input,
  integrated_gradients,
  leave_one_out,
  random
};

/// A method, its name on command lines, and what of it there is.
struct MethodName {
  Method method;
  std::string_view name;
  bool from_attention;  ///< whether it depends on which terms of the attention are on, and has a map over tokens
  bool from_gradient;   ///< whether it needs a backward pass
};
inline constexpr std::array<MethodName, 10> method_names = {{{Method::raw, "raw", true, false},
                                                             {Method::rollout, "rollout", true, false},
                                                             {Method::gradient, "gradient", true, true},
                                                             {Method::gradient_2403_01590, "gradient-2403.01590", true, true},
                                                             {Method::gradient_2405_16504, "gradient-2405.16504", true, true},
                                                             {Method::relevance, "relevance", false, false},
                                                             {Method::gradient_x_input, "gradient-x-input", false, true},
                                                             {Method::integrated_gradients, "integrated-gradients", false, false},
                                                             {Method::leave_one_out, "leave-one-out", false, false},
                                                             {Method::random, "random", false, false}}};

[[nodiscard]] inline const MethodName& method_info(Method method) {
  return *std::find_if(method_names.begin(), method_names.end(), [&](const MethodName& named) { return named.method == method; });
}

/// Reads a method's name; fails on any other, naming them all.
[[nodiscard]] inline Method parse_method(std::string_view name) {
  std::string all;
  for (const MethodName& named : method_names) {
    if (named.name == name) return named.method;
    all += message(all.empty() ? "" : ", ", named.name);
  }
  raise(ErrorKind::value, message("unknown method \"", name, "\", expected one of ", all));
}

/// What is explained: the logit of `token` at `position`, less that of `contrast` if there is one.
struct Target {
  Index position = 0;
  Index token = 0;
  std::optional<Index> contrast;
};

/// How a token is taken away (leave-one-out).
enum class Removal {
  replace,  ///< another token in its place: `<unk>`, say
  zero,     ///< an embedding of zeros in its place
  drop      ///< the text without it; where it stood at the explained position, the token before it answers
};

/// What the methods can be told; each uses what concerns it.
template <Real Scalar>
struct MethodOptions {
  Terms terms = Terms::all();                         ///< methods from attention: which formulation
  ReductionKind reduction = ReductionKind::mean_abs;  ///< raw, rollout: how channels become one map
  std::optional<Index> layer;                         ///< raw: this layer; otherwise all averaged
  RolloutOptions<Scalar> rollout;                     ///< rollout: all of it; the gradient forms: the start layer
  bool with_map = false;                              ///< methods from attention: the whole map, too
  Index integration_steps = 32;                       ///< integrated gradients
  Array<Scalar> baseline;                             ///< integrated gradients: (1, width), every token's; empty: zeros
  Removal removal = Removal::zero;                    ///< leave-one-out
  Index replacement = 0;                              ///< leave-one-out: the token for Removal::replace
  std::uint64_t seed = 0;                             ///< random
};

/// One text in one model, and why the model gave what it gave. The model's weights must stay alive where they are viewed.
template <Real S>
class Explainer {
 public:
  using Scalar = S;

  /// Runs the model on token ids (L). `options.logit_positions` must hold the positions to be explained (all do unless told otherwise);
  /// with Keep::residuals, layers are run again when they are asked for, and memory is bounded by one layer's activations.
  Explainer(LanguageModel<Scalar> model, std::vector<Index> ids, ForwardOptions options = {})
      : model_(std::move(model)), ids_(std::move(ids)), options_(std::move(options)), pass_(model_.forward(ids_, options_)) {}

  [[nodiscard]] const LanguageModel<Scalar>& model() const { return model_; }
  [[nodiscard]] const ForwardPass<Scalar>& pass() const { return pass_; }
  [[nodiscard]] Index tokens() const { return pass_.tokens(); }

  /// The token with the largest logit at a position; of equal ones the first.
  [[nodiscard]] Index most_likely(Index position) const;

  /// The number explained. Fails on a position or token that is not there, and on NaN.
  [[nodiscard]] Scalar value(const Target& target) const;

  /// The gradients of what is explained with respect to everything in the model; kept for the target asked for last.
  [[nodiscard]] const BackwardPass<Scalar>& gradients(const Target& target);

  /// One score per input token by one method; zero after the target's position. Raw attention, rollout and random take the position
  /// alone; the others the whole target. See the methods' own headers for formulas and signs.
  [[nodiscard]] Attribution<Scalar> explain(Method method, const Target& target, const MethodOptions<Scalar>& options = {});

  /// What is explained when one token is taken away. With nothing left (the only token dropped) there is no logit, and 0 stands for it.
  [[nodiscard]] Scalar value_without(Index token, const Target& target, const MethodOptions<Scalar>& options) const;

 private:
  [[nodiscard]] static bool same(const Target& a, const Target& b);

  void check(const Target& target) const;
  void check_removal(const MethodOptions<Scalar>& options) const;

  [[nodiscard]] static Scalar value_of(ConstView<Scalar> logits, const Target& target);

  template <class Element>
  [[nodiscard]] static std::vector<Element> prefix(const std::vector<Element>& all, Index position) {
    return {all.begin(), all.begin() + std::min(static_cast<std::ptrdiff_t>(all.size()), static_cast<std::ptrdiff_t>(position + 1))};
  }
  /// Runs that need nothing after the position, and no more than its logits.
  [[nodiscard]] ForwardOptions prefix_options(Index position) const;

  template <class Source>
  [[nodiscard]] Attribution<Scalar> raw(const Source& attention_of, Index position, const MethodOptions<Scalar>& options) const {
    Reduction<Scalar> reduction;
    reduction.kind = options.reduction;
    if (!options.with_map)
      return options.layer ? raw_attention(attention_of(*options.layer), position, reduction, options_.executor)
                           : raw_attention<Scalar>(model_.layer_count(), attention_of, position, reduction, options_.executor);
    Selection selection;
    selection.executor = options_.executor;
    return at(options.layer ? raw_attention_map(attention_of(*options.layer), reduction, selection)
                            : raw_attention_map<Scalar>(model_.layer_count(), attention_of, reduction, selection),
              position);
  }

  template <class Source>
  [[nodiscard]] Attribution<Scalar> rolled_out(const Source& attention_of, Index position, const MethodOptions<Scalar>& options) const {
    const Index layers = model_.layer_count();
    Reduction<Scalar> reduction;
    reduction.kind = options.reduction;
    Selection selection;
    selection.executor = options_.executor;
    const auto map_of = [&](Index layer) { return attention_of(layer).reduce(reduction, selection); };
    if (options.with_map) return at(rollout_map<Scalar>(layers, tokens(), map_of, options.rollout), position);
    if (options.reduction == ReductionKind::mean && options.rollout.discard_ratio == Scalar(0))
      return rollout_matrix_free<Scalar>(layers, attention_of, position, options.rollout, options_.executor);
    return rollout<Scalar>(layers, tokens(), map_of, position, options.rollout);
  }

  [[nodiscard]] Attribution<Scalar> weighted(GradientForm form, const Target& target, const MethodOptions<Scalar>& options);

  [[nodiscard]] Attribution<Scalar> integrated(const Target& target, const MethodOptions<Scalar>& options) const;

  /// A map's row at a position.
  [[nodiscard]] static Attribution<Scalar> at(Attribution<Scalar> whole, Index position);

  LanguageModel<Scalar> model_;
  std::vector<Index> ids_;
  ForwardOptions options_;
  ForwardPass<Scalar> pass_;
  std::optional<BackwardPass<Scalar>> backward_;
  std::optional<Target> backward_target_;
};

template <Real S>
Index Explainer<S>::most_likely(Index position) const {
  detail::check_position("argmax", position, tokens());
  const ConstView<Scalar> logits = pass_.logits_at(position);
  detail::check_finite("argmax", "the logits", logits);
  Index best = 0;
  logits.row(0).maxCoeff(&best);
  return best;
}

template <Real S>
S Explainer<S>::value(const Target& target) const {
  check(target);
  return value_of(pass_.logits_at(target.position), target);
}

template <Real S>
const BackwardPass<S>& Explainer<S>::gradients(const Target& target) {
  check(target);
  if (!backward_ || !same(*backward_target_, target)) {
    BackwardOptions<Scalar> backward_options;
    backward_options.executor = options_.executor;
    backward_ = backward(model_, pass_, logit_gradient(pass_, target.position, target.token, target.contrast), backward_options);
    backward_target_ = target;
  }
  return *backward_;
}

template <Real S>
Attribution<S> Explainer<S>::explain(Method method, const Target& target, const MethodOptions<Scalar>& options) {
  const Scalar explained = value(target);
  const Index position = target.position;
  const auto attention_of = [&](Index layer) {
    return model_.implicit_attention(model_.layer_pass(pass_, layer, options_.executor), layer, options.terms);
  };
  switch (method) {
    case Method::raw:
      return raw(attention_of, position, options);
    case Method::rollout:
      return rolled_out(attention_of, position, options);
    case Method::gradient:
      return weighted(GradientForm::exact, target, options);
    case Method::gradient_2403_01590:
      return weighted(GradientForm::mean_gradient, target, options);
    case Method::gradient_2405_16504:
      return weighted(GradientForm::token_maximum, target, options);
    case Method::relevance:
      return relevance(model_, pass_, logit_gradient(pass_, position, target.token, target.contrast), position, options_.executor);
    case Method::gradient_x_input: {
      Attribution<Scalar> result = gradient_x_input<Scalar>(*pass_.embeddings, *gradients(target).embeddings, position);
      result.explained = explained;
      return result;
    }
    case Method::integrated_gradients:
      return integrated(target, options);
    case Method::leave_one_out:
      check_removal(options);
      return leave_one_out<Scalar>(
          tokens(), explained, [&](Index token) { return value_without(token, target, options); }, position, options_.executor);
    case Method::random:
      break;
  }
  return random_attribution<Scalar>(tokens(), position, options.seed);
}

template <Real S>
S Explainer<S>::value_without(Index token, const Target& target, const MethodOptions<Scalar>& options) const {
  check(target);
  check_removal(options);
  detail::check_position("leave-one-out", token, tokens());
  std::vector<Index> ids = prefix(ids_, target.position);
  if (token > target.position) return value(target);
  ForwardOptions run = prefix_options(target.position);
  const auto at = static_cast<std::ptrdiff_t>(token);
  Index position = target.position;
  Matrix<Scalar> embeddings = pass_.embeddings.matrix().topRows(position + 1);
  if (options.removal == Removal::replace) {
    ids[static_cast<std::size_t>(token)] = options.replacement;
    embeddings = model_.embed(ids);
  } else if (options.removal == Removal::zero) {
    embeddings.row(token).setZero();
  } else {
    ids.erase(ids.begin() + at);
    if (ids.empty()) return Scalar(0);
    if (!run.positions.empty()) run.positions.erase(run.positions.begin() + at);
    position -= 1;
    embeddings = model_.embed(ids);
  }
  run.logit_positions = Indices({position});
  return value_of(model_.forward_embeddings(embeddings, run).logits, target);
}

template <Real S>
bool Explainer<S>::same(const Target& a, const Target& b) {
  return a.position == b.position && a.token == b.token && a.contrast == b.contrast;
}

template <Real S>
void Explainer<S>::check(const Target& target) const {
  detail::check_position("target", target.position, tokens());
  const auto check_token = [&](const char* what, Index token) {
    if (token < 0 || token >= model_.vocabulary())
      raise(ErrorKind::value, message(what, " token ", token, " is out of range, expected 0 to ", model_.vocabulary() - 1));
  };
  check_token("target", target.token);
  if (target.contrast) check_token("contrast", *target.contrast);
  detail::check_finite("target", "the logits", pass_.logits_at(target.position));
}

template <Real S>
void Explainer<S>::check_removal(const MethodOptions<Scalar>& options) const {
  if (options.removal == Removal::replace && (options.replacement < 0 || options.replacement >= model_.vocabulary()))
    raise(ErrorKind::value,
          message("leave-one-out: replacement token ", options.replacement, " is out of range, expected 0 to ", model_.vocabulary() - 1));
}

template <Real S>
S Explainer<S>::value_of(ConstView<Scalar> logits, const Target& target) {
  const Scalar value = logits(0, target.token) - (target.contrast ? logits(0, *target.contrast) : Scalar(0));
  if (!std::isfinite(value))
    raise(ErrorKind::value, message("target: the logit of token ", target.token, " at position ", target.position,
                                    " is not finite; are there NaN in the weights?"));
  return value;
}

template <Real S>
ForwardOptions Explainer<S>::prefix_options(Index position) const {
  ForwardOptions run;
  run.keep = Keep::logits;
  run.logit_positions = Indices({position});
  run.positions = prefix(options_.positions, position);
  return run;
}

template <Real S>
Attribution<S> Explainer<S>::weighted(GradientForm form, const Target& target, const MethodOptions<Scalar>& options) {
  const BackwardPass<Scalar>& backward_pass = gradients(target);
  const auto layer_of = [&](Index layer) {
    const LayerPass<Scalar> layer_pass = model_.layer_pass(pass_, layer, options_.executor);
    const LayerBackward<Scalar>& d = backward_pass.layers[static_cast<std::size_t>(layer)];
    return LayerWithGradients<Scalar>{model_.implicit_attention(layer_pass, layer, options.terms), layer_pass.x(), d.y, d.residual};
  };
  const Index layers = model_.layer_count(), start = options.rollout.start_layer;
  if (options.with_map)
    return at(gradient_weighted_attention_map<Scalar>(layers, tokens(), layer_of, form, start, options_.executor), target.position);
  return gradient_weighted_attention<Scalar>(layers, tokens(), layer_of, form, target.position, start, options_.executor);
}

template <Real S>
Attribution<S> Explainer<S>::integrated(const Target& target, const MethodOptions<Scalar>& options) const {
  const Index length = target.position + 1;  // later tokens cannot matter
  Matrix<Scalar> baseline = Matrix<Scalar>::Zero(length, model_.width());
  if (!options.baseline.empty()) {
    check_vector("integrated gradients", "baseline", options.baseline, model_.width(), "width");
    baseline.rowwise() = options.baseline.matrix().row(0).eval();
  }
  ForwardOptions run = prefix_options(target.position);
  run.executor = options_.executor;
  const auto value_at = [&](const Matrix<Scalar>& point) { return value_of(model_.forward_embeddings(point, run).logits, target); };
  const auto gradient_at = [&](const Matrix<Scalar>& point) {
    ForwardOptions keeping = run;
    keeping.keep = Keep::activations;
    const ForwardPass<Scalar> pass = model_.forward_embeddings(point, keeping);
    BackwardOptions<Scalar> backward_options;
    backward_options.keep_layers = false;
    backward_options.executor = options_.executor;
    return Matrix<Scalar>(
        *backward(model_, pass, logit_gradient(pass, target.position, target.token, target.contrast), backward_options).embeddings);
  };
  const Matrix<Scalar> input = pass_.embeddings.matrix().topRows(length);
  Attribution<Scalar> result =
      integrated_gradients<Scalar>(input, baseline, value_at, gradient_at, target.position, options.integration_steps);
  RowVector<Scalar> scores = RowVector<Scalar>::Zero(tokens());
  scores.head(length) = result.scores;
  result.scores = std::move(scores);
  return result;
}

template <Real S>
Attribution<S> Explainer<S>::at(Attribution<Scalar> whole, Index position) {
  whole.position = position;
  whole.scores = whole.map.row(position);
  return whole;
}

IMPLICIT_ATTENTION_NAMESPACE_END
