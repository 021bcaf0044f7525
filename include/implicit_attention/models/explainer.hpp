// Every method by its name, for a whole language model: what a command line or an evaluation calls. Forward and backward passes are run
// once and shared between methods.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/baselines.hpp>
#include <implicit_attention/attribution/gradient.hpp>
#include <implicit_attention/attribution/method_options.hpp>
#include <implicit_attention/models/backward.hpp>
#include <implicit_attention/models/contribution_rollout.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One text in one model, and why the model gave what it gave. The model's weights must stay alive where they are viewed.
template <Real S>
class Explainer {
 public:
  using Scalar = S;

  /// Runs the model on token ids (L). `options.logit_positions` must hold the positions to be explained (all do unless told otherwise);
  /// with Keep::residuals, layers are run again when they are asked for, and memory is bounded by one layer's activations.
  Explainer(LanguageModel<Scalar> model, std::vector<Index> ids, ForwardOptions options = {})
      : model_(std::move(model)),
        ids_(std::move(ids)),
        options_(std::move(options)),
        mixing_(model_.mixing_layers()),
        pass_(model_.forward(ids_, options_)) {}

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

  /// The matrix form of every method: row r is what `explain` gives for targets[r], to rounding. One target for each position gives a map
  /// (output token, input token); `targets_at` makes them where the token is the same. Linear memory in tokens beside the result, but for
  /// maps where the method has them.
  ///   - raw: the chosen rows of its map; nothing else is computed.
  ///   - rollout: rows of rollout_map, which needs a map over tokens or two. Where one row needs none (ReductionKind::mean without a
  ///     discard ratio) and few are asked for, they are computed one by one, in linear memory.
  ///   - leave-one-out: one run for each token serves all targets; it has their logits.
  ///   - all others: target by target. Gradients differ from target to target: the map of a gradient-weighted form (with_map) is of one
  ///     target's gradients, and only its row at that target's position is in here.
  [[nodiscard]] AttributionMatrix<Scalar> explain_each(Method method, const std::vector<Target>& targets,
                                                       const MethodOptions<Scalar>& options = {});

  /// What is explained when one token is taken away. With nothing left (the only token dropped) there is no logit, and 0 stands for it.
  [[nodiscard]] Scalar value_without(Index token, const Target& target, const MethodOptions<Scalar>& options) const;

 private:
  [[nodiscard]] static bool same(const Target& a, const Target& b);

  void check(const Target& target) const;
  void check_removal(const MethodOptions<Scalar>& options) const;

  [[nodiscard]] static Scalar value_of(ConstView<Scalar> logits, const Target& target);

  /// How many tokens a position's logits depend on: later ones cannot matter to a causal model.
  [[nodiscard]] Index seen_by(Index position) const { return model_.causal() ? position + 1 : tokens(); }
  template <class Element>
  [[nodiscard]] std::vector<Element> prefix(const std::vector<Element>& all, Index position) const {
    return {all.begin(), all.begin() + std::min(static_cast<std::ptrdiff_t>(all.size()), static_cast<std::ptrdiff_t>(seen_by(position)))};
  }
  /// Runs that need nothing after what the position sees, and no more than its logits.
  [[nodiscard]] ForwardOptions prefix_options(Index position) const;

  /// value_without for several targets by one run, (targets).
  [[nodiscard]] RowVector<Scalar> values_without(Index token, const std::vector<Target>& targets,
                                                 const MethodOptions<Scalar>& options) const;

  template <class Source>
  [[nodiscard]] Attribution<Scalar> raw(const Source& attention_of, Index position, const MethodOptions<Scalar>& options) const {
    Reduction<Scalar> reduction;
    reduction.kind = options.reduction;
    if (!options.with_map)
      return options.layer ? raw_attention(attention_of_layer(*options.layer, options.terms), position, reduction, options_.executor)
                           : raw_attention<Scalar>(mixing_count(), attention_of, position, reduction, options_.executor);
    Selection selection;
    selection.executor = options_.executor;
    return at(options.layer ? raw_attention_map(attention_of_layer(*options.layer, options.terms), reduction, selection)
                            : raw_attention_map<Scalar>(mixing_count(), attention_of, reduction, selection),
              position);
  }

  template <class Source>
  [[nodiscard]] Attribution<Scalar> rolled_out(const Source& attention_of, Index position, const MethodOptions<Scalar>& options) const {
    const Index layers = mixing_count();
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

  /// Vector rollout: g_l = g_{l+1} + N_l^T W_in^T A_l^T W_o^T g_{l+1} with norm scales N and all of A (its gate too) held, feed-forward
  /// parts by relevance's rules; the score of token j is <e_j, g_0,j>. Relevance-attention: the mean over layers of
  /// sum_e x_e o A_e^T (W_o^T g)_e on the same walk. Both with any set of terms.
  [[nodiscard]] Attribution<Scalar> held_walk(Method method, const Target& target, const MethodOptions<Scalar>& options) const;

  [[nodiscard]] Attribution<Scalar> integrated(const Target& target, const MethodOptions<Scalar>& options) const;

  /// A map's row at a position.
  [[nodiscard]] static Attribution<Scalar> at(Attribution<Scalar> whole, Index position);

  /// The implicit attention of the `index`-th layer that mixes tokens: feed-forward layers take no part in a method made of attention.
  [[nodiscard]] ImplicitAttention<Scalar> attention_of_mixing(Index index, Terms terms) const {
    return attention_of_layer(mixing_[static_cast<std::size_t>(index)], terms);
  }
  [[nodiscard]] ImplicitAttention<Scalar> attention_of_layer(Index layer, Terms terms) const {
    return model_.implicit_attention(model_.layer_pass(pass_, layer, options_.executor, false), layer, terms);
  }
  [[nodiscard]] Index mixing_count() const { return static_cast<Index>(mixing_.size()); }

  LanguageModel<Scalar> model_;
  std::vector<Index> ids_;
  ForwardOptions options_;
  std::vector<Index> mixing_;
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
  const auto attention_of = [&](Index index) { return attention_of_mixing(index, options.terms); };
  switch (method) {
    case Method::raw:
      return raw(attention_of, position, options);
    case Method::rollout:
      return rolled_out(attention_of, position, options);
    case Method::gradient:
      return weighted(GradientForm::exact, target, options);
    case Method::gradient_mean:
      return weighted(GradientForm::mean_gradient, target, options);
    case Method::gradient_maximum:
      return weighted(GradientForm::token_maximum, target, options);
    case Method::relevance:
      return relevance(model_, pass_, logit_gradient(pass_, position, target.token, target.contrast), position, options_.executor);
    case Method::vector_rollout:
    case Method::relevance_attention:
      return held_walk(method, target, options);
    case Method::contribution_rollout:
      return contribution_rollout(model_, pass_, position, options.terms, options_.executor);
    case Method::alti_logit:
      return alti_logit(model_, pass_, position, target.token, target.contrast, options.terms, options_.executor);
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
          tokens(), explained, [&](Index token) { return value_without(token, target, options); }, position, options_.executor,
          seen_by(position));
    case Method::random:
      break;
  }
  return random_attribution<Scalar>(tokens(), position, options.seed, seen_by(position));
}

template <Real S>
AttributionMatrix<S> Explainer<S>::explain_each(Method method, const std::vector<Target>& targets, const MethodOptions<Scalar>& options) {
  if (targets.empty()) raise(ErrorKind::value, "explain_each: there are no targets, expected at least one");
  const auto count = static_cast<Index>(targets.size());
  AttributionMatrix<Scalar> result;
  result.scores = Matrix<Scalar>::Zero(count, tokens());
  result.explained = RowVector<Scalar>::Constant(count, std::numeric_limits<Scalar>::quiet_NaN());
  result.bias_share = result.baseline = RowVector<Scalar>::Zero(count);
  std::vector<Index> positions;
  for (const Target& target : targets) {
    check(target);
    positions.push_back(target.position);
  }

  const bool without_maps = options.reduction == ReductionKind::mean && options.rollout.discard_ratio == Scalar(0);
  if (method == Method::raw) {
    Reduction<Scalar> reduction;
    reduction.kind = options.reduction;
    Selection selection;
    selection.rows = positions;
    selection.executor = options_.executor;
    const std::vector<Index> layers = options.layer ? std::vector<Index>{*options.layer} : mixing_;
    for (const Index layer : layers) result.scores += attention_of_layer(layer, options.terms).reduce(reduction, selection);
    result.scores /= static_cast<Scalar>(layers.size());
    detail::check_finite("raw attention", "the reduced map", result.scores);
  } else if (method == Method::rollout && !(without_maps && 4 * count < tokens())) {
    MethodOptions<Scalar> whole = options;
    whole.with_map = true;
    const Attribution<Scalar> rolled = explain(method, targets.front(), whole);
    for (Index row = 0; row < count; ++row) result.scores.row(row) = rolled.map.row(positions[static_cast<std::size_t>(row)]);
    result.zero_rows = rolled.zero_rows;
  } else if (method == Method::leave_one_out) {
    check_removal(options);
    for (Index row = 0; row < count; ++row) result.explained[row] = value(targets[static_cast<std::size_t>(row)]);
    options_.executor(seen_by(*std::max_element(positions.begin(), positions.end())), [&](Index token) {
      result.scores.col(token) = (result.explained - values_without(token, targets, options)).transpose();
    });
    detail::check_finite("leave-one-out", "the differences", result.scores);
  } else {
    MethodOptions<Scalar> one = options;
    one.with_map = false;
    for (Index row = 0; row < count; ++row) {
      const Attribution<Scalar> answer = explain(method, targets[static_cast<std::size_t>(row)], one);
      result.scores.row(row) = answer.scores;
      result.explained[row] = answer.explained;
      result.bias_share[row] = answer.bias_share;
      result.baseline[row] = answer.baseline;
      detail::append_new(result.zero_rows, answer.zero_rows);
      detail::append_new(result.constant_layers, answer.constant_layers);
      detail::append_new(result.untreated, answer.untreated);
    }
  }
  return result;
}

template <Real S>
S Explainer<S>::value_without(Index token, const Target& target, const MethodOptions<Scalar>& options) const {
  check(target);
  check_removal(options);
  detail::check_position("leave-one-out", token, tokens());
  return values_without(token, {target}, options)[0];
}

template <Real S>
RowVector<S> Explainer<S>::values_without(Index token, const std::vector<Target>& targets, const MethodOptions<Scalar>& options) const {
  const bool drop = options.removal == Removal::drop;
  const auto place = [&](const Target& target) {  // of the answer, in the new text
    return drop && token <= target.position ? target.position - 1 : target.position;
  };
  const auto matters = [&](const Target& target) { return token < seen_by(target.position); };
  std::vector<Index> places;
  Index last = 0;  // of the text as it is
  for (const Target& target : targets) {
    last = std::max(last, target.position);
    if (matters(target) && place(target) >= 0) places.push_back(place(target));
  }
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());

  ForwardPass<Scalar> pass;
  if (!places.empty()) {
    std::vector<Index> ids = prefix(ids_, last);
    ForwardOptions run = prefix_options(last);
    run.logit_positions = std::move(places);
    Matrix<Scalar> embeddings = pass_.embeddings.matrix().topRows(seen_by(last));
    if (drop) {
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(token));
      if (!run.positions.empty()) run.positions.erase(run.positions.begin() + static_cast<std::ptrdiff_t>(token));
      embeddings = model_.embed(ids);
    } else if (options.removal == Removal::replace) {
      ids[static_cast<std::size_t>(token)] = options.replacement;
      embeddings = model_.embed(ids);
    } else {
      embeddings.row(token).setZero();
    }
    pass = model_.forward_embeddings(embeddings, run);
  }
  RowVector<Scalar> values = RowVector<Scalar>::Zero(static_cast<Index>(targets.size()));
  for (Index row = 0; row < values.size(); ++row) {
    const Target& target = targets[static_cast<std::size_t>(row)];
    if (!matters(target))
      values[row] = value(target);
    else if (place(target) >= 0)
      values[row] = value_of(pass.logits_at(place(target)), target);
  }
  return values;
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
  if (!pass_.logits_at(target.position).allFinite()) {
    ForwardOptions searching = options_;  // once more, for the name of the layer, token and channel where it began
    searching.keep = Keep::logits;
    searching.check_finite = true;
    static_cast<void>(model_.forward(ids_, searching));
  }
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
  const auto layer_of = [&](Index index) {
    const Index layer = mixing_[static_cast<std::size_t>(index)];
    const LayerPass<Scalar> layer_pass = model_.layer_pass(pass_, layer, options_.executor, false);
    const LayerBackward<Scalar>& d = backward_pass.layers[static_cast<std::size_t>(layer)];
    return LayerWithGradients<Scalar>{model_.implicit_attention(layer_pass, layer, options.terms), layer_pass.x(), d.y, d.residual};
  };
  const Index layers = mixing_count(), start = options.rollout.start_layer;
  if (options.with_map)
    return at(gradient_weighted_attention_map<Scalar>(layers, tokens(), layer_of, form, start, options_.executor), target.position);
  return gradient_weighted_attention<Scalar>(layers, tokens(), layer_of, form, target.position, start, options_.executor);
}

template <Real S>
Attribution<S> Explainer<S>::held_walk(Method method, const Target& target, const MethodOptions<Scalar>& options) const {
  Attribution<Scalar> result;
  result.position = target.position;
  result.explained = value(target);
  RowVector<Scalar> by_layer = RowVector<Scalar>::Zero(tokens());
  BackwardOptions<Scalar> walk;
  walk.way = WayBack::attention;
  walk.keep_layers = false;
  walk.executor = options_.executor;
  if (!(options.terms == Terms::all()))
    walk.detours = [&](Index, const LayerPass<Scalar>& pass) {
      std::vector<Detour<Scalar>> detours;
      for (const MixerRun<Scalar>& mixer : pass.mixers)
        detours.push_back({mixer.y, mixer.x, [attention = mixer.attention(options.terms), this](const Matrix<Scalar>& gradient) {
                             return attention.apply_transpose(gradient, options_.executor);
                           }});
      return detours;
    };
  if (method == Method::relevance_attention)
    walk.visit = [&](Index, const LayerPass<Scalar>& pass, const LayerBackward<Scalar>& gradients) {
      for (std::size_t index = 0; index < pass.mixers.size(); ++index)
        by_layer += (*pass.mixers[index].x).cwiseProduct(*gradients.mixers_x[index]).rowwise().sum().transpose();
    };
  const BackwardPass<Scalar> walked = backward(model_, pass_, logit_gradient(pass_, target.position, target.token, target.contrast), walk);
  result.bias_share = walked.bias_share;
  result.untreated = walked.untreated;
  result.scores = method == Method::vector_rollout
                      ? RowVector<Scalar>((*pass_.embeddings).cwiseProduct(*walked.embeddings).rowwise().sum().transpose())
                      : RowVector<Scalar>(by_layer / static_cast<Scalar>(mixing_count()));
  detail::check_finite(method_info(method).name, "the result", result.scores);
  return result;
}

template <Real S>
Attribution<S> Explainer<S>::integrated(const Target& target, const MethodOptions<Scalar>& options) const {
  const Index length = seen_by(target.position);
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
  IntegrationLimits limits;
  limits.tolerance = options.integration_tolerance;
  Attribution<Scalar> result =
      options.integration_steps > 0
          ? integrated_gradients<Scalar>(input, baseline, value_at, gradient_at, target.position, options.integration_steps)
          : integrated_gradients_within<Scalar>(input, baseline, value_at, gradient_at, target.position, limits);
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
