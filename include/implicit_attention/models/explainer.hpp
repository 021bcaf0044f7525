// Every method by its name, for a whole language model: what a command line or an evaluation calls. Forward and backward passes are run
// once and shared between methods.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/baselines.hpp>
#include <implicit_attention/models/backward.hpp>
#include <implicit_attention/models/explainer_maps.hpp>
#include <implicit_attention/models/explainer_removals.hpp>
#include <implicit_attention/models/explainer_runs.hpp>
#include <implicit_attention/models/explainer_walks.hpp>
#include <implicit_attention/models/explanation_plan.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One text in one model, and why the model gave what it gave. The model's weights must stay alive where they are viewed.
template <Real S>
class Explainer {
 public:
  using Scalar = S;

  /// Runs the model on token ids (L), or on as many of them as the positions to be explained depend on: a causal model needs no token after
  /// the last of `options.logit_positions`, except for Method::gradient_maximum, a rollout that discards entries of whole maps, and whole
  /// maps. Earlier positions can be explained as well: their logits are computed on request. With Keep::residuals, layers that
  /// `options.memory` has no room for are run again when they are asked for, and memory is bounded by one layer's activations beside it.
  Explainer(LanguageModel<Scalar> model, std::vector<Index> ids, ForwardOptions options = {}, ExplanationPlan<Scalar> plan = {})
      : run_(std::move(model), std::move(ids), std::move(options), std::move(plan)) {}

  [[nodiscard]] const LanguageModel<Scalar>& model() const { return run_.model(); }
  /// The run: of the tokens that the positions to be explained depend on, which may be fewer than `tokens()`, with the logits at
  /// `options.logit_positions` and wherever else something has been explained.
  [[nodiscard]] const ForwardPass<Scalar>& pass() const { return run_.pass(); }
  /// Tokens of the text: every result has a score for each.
  [[nodiscard]] Index tokens() const { return run_.tokens(); }

  /// The token with the largest logit at a position; of equal ones the first.
  [[nodiscard]] Index most_likely(Index position) const;

  /// The number explained. Fails on a position or token that is not there, and on NaN.
  [[nodiscard]] Scalar value(const Target& target) const { return run_.value(target); }

  /// The gradients of what is explained with respect to everything in the model; kept for the target asked for last.
  [[nodiscard]] const BackwardPass<Scalar>& gradients(const Target& target);

  /// One score per input token by one method; zero after the target's position. Raw attention, rollout, contribution norms and their
  /// rollout, and random take the position alone; the others the whole target. See the methods' own headers for formulas and signs.
  [[nodiscard]] Attribution<Scalar> explain(Method method, const Target& target, const MethodOptions<Scalar>& options = {});

  /// The matrix form of every method: row r is what `explain` gives for targets[r], to rounding. One target for each position gives a map
  /// (output token, input token); `targets_at` makes them where the token is the same. Linear memory in tokens beside the result, but for
  /// maps where the method has them.
  ///   - raw: the chosen rows of its map; nothing else is computed.
  ///   - rollout: rows of rollout_map, which needs a map over tokens or two. Where one row needs none (ReductionKind::mean without a
  ///     discard ratio) and few are asked for, they are computed one by one, in linear memory.
  ///   - contribution-norms, contribution-rollout, alti-logit: each layer is lowered, and each row of a rollout made, once for all targets.
  ///   - leave-one-out: one run for each token serves all targets; it has their logits.
  ///   - all others: target by target. Gradients differ from target to target: the map of a gradient-weighted form (with_map) is of one
  ///     target's gradients, and only its row at that target's position is in here.
  [[nodiscard]] AttributionMatrix<Scalar> explain_each(Method method, const std::vector<Target>& targets,
                                                       const MethodOptions<Scalar>& options = {});

  /// What is explained when one token is taken away. With nothing left (the only token dropped) there is no logit, and 0 stands for it.
  [[nodiscard]] Scalar value_without(Index token, const Target& target, const MethodOptions<Scalar>& options) const {
    run_.check(target);
    return detail::TokenRemovals<Scalar>(run_, options).value_without(token, target);
  }
  /// The same for several tokens, in ascending order, each taken away alone, (tokens). A short text is run without each of several tokens
  /// side by side, as documents of one sequence, where the model keeps those apart. A longer one is run once up to each block of tokens,
  /// and from there on without each of the block's, where layers carry states; else once for each.
  [[nodiscard]] RowVector<Scalar> values_without(const std::vector<Index>& removed, const Target& target,
                                                 const MethodOptions<Scalar>& options) const;

 private:
  /// Ensures that the run has what the method needs; `whole`: it must have read the whole text, `layers`: it must have kept the layers.
  void need(bool whole, bool layers) {
    if (run_.need(whole, layers)) kept_.forget();
  }
  [[nodiscard]] detail::WalkMethods<Scalar> walks() { return {run_, kept_}; }
  /// `explain` on a run that has what the method reads: scores of the tokens that were read.
  [[nodiscard]] Attribution<Scalar> explain_read(Method method, const Target& target, const MethodOptions<Scalar>& options);

  detail::ExplainedRun<Scalar> run_;
  detail::KeptWalks<Scalar> kept_;
};

template <Real S>
Index Explainer<S>::most_likely(Index position) const {
  detail::check_position("argmax", position, tokens());
  return run_.use_logits(position, [](ConstView<Scalar> logits) {
    detail::check_finite("argmax", "the logits", logits);
    Index best = 0;
    logits.row(0).maxCoeff(&best);
    return best;
  });
}

template <Real S>
const BackwardPass<S>& Explainer<S>::gradients(const Target& target) {
  run_.need_logits({target.position});
  run_.check(target);
  need(false, true);
  return walks().gradients(target);
}

template <Real S>
RowVector<S> Explainer<S>::values_without(const std::vector<Index>& removed, const Target& target,
                                          const MethodOptions<Scalar>& options) const {
  run_.check(target);
  const detail::TokenRemovals<Scalar> removals(run_, options);
  for (const Index token : removed) detail::check_position("leave-one-out", token, tokens());
  if (!std::is_sorted(removed.begin(), removed.end()))
    detail::raise(ErrorKind::value, "leave-one-out: the tokens are not in ascending order");
  return removals.values_without_each(removed, {target}).col(0).transpose();
}

template <Real S>
Attribution<S> Explainer<S>::explain(Method method, const Target& target, const MethodOptions<Scalar>& options) {
  run_.need_logits({target.position});
  run_.check(target);
  if (const std::optional<Matrix<Scalar>> rows = run_.taken_rows(method, {target.position}, options))
    return detail::only_row(*rows, target.position);
  need(run_.reads_whole(method, options), method_info(method).reads_layers);
  Attribution<Scalar> result = explain_read(method, target, options);
  const Index read = result.scores.size();
  result.scores.conservativeResize(tokens());
  result.scores.tail(tokens() - read).setZero();
  return result;
}

template <Real S>
Attribution<S> Explainer<S>::explain_read(Method method, const Target& target, const MethodOptions<Scalar>& options) {
  const Scalar explained = run_.value(target);
  const detail::MapMethods<Scalar> maps(run_);
  const Index position = target.position;
  switch (method) {
    case Method::raw:
      return maps.raw(position, options);
    case Method::rollout:
      return maps.rolled_out(position, options);
    case Method::gradient:
      return walks().weighted(GradientForm::exact, target, options);
    case Method::gradient_mean:
      return walks().weighted(GradientForm::mean_gradient, target, options);
    case Method::gradient_maximum:
      return walks().weighted(GradientForm::token_maximum, target, options);
    case Method::relevance:
      return relevance(model(), pass(), logit_gradient(pass(), position, target.token, target.contrast), position, run_.options().executor);
    case Method::vector_rollout:
    case Method::relevance_attention:
      return walks().held_walk(method, target, options);
    case Method::edge_map:
      return walks().edges(target, options);
    case Method::contribution_norms:
    case Method::contribution_rollout:
    case Method::alti_logit:
      return maps.one_by_vectors(method, target, options);
    case Method::gradient_x_input:
      return walks().walked(method, target, options);
    case Method::integrated_gradients:
      return walks().integrated(target, options);
    case Method::leave_one_out: {
      std::vector<Index> removed(static_cast<std::size_t>(run_.seen_by(position)));
      std::iota(removed.begin(), removed.end(), Index(0));
      const RowVector<Scalar> values =
          detail::TokenRemovals<Scalar>(run_, options).values_without_each(removed, {target}).col(0).transpose();
      return leave_one_out<Scalar>(
          tokens(), explained, [&](Index token) { return values[token]; }, position, serial_executor(), run_.seen_by(position));
    }
    case Method::random:
      break;
  }
  return random_attribution<Scalar>(tokens(), position, options.seed, run_.seen_by(position));
}

template <Real S>
AttributionMatrix<S> Explainer<S>::explain_each(Method method, const std::vector<Target>& targets, const MethodOptions<Scalar>& options) {
  if (targets.empty()) detail::raise(ErrorKind::value, "explain_each: there are no targets, expected at least one");
  const auto count = static_cast<Index>(targets.size());
  AttributionMatrix<Scalar> result;
  result.scores = Matrix<Scalar>::Zero(count, tokens());
  result.explained = RowVector<Scalar>::Constant(count, std::numeric_limits<Scalar>::quiet_NaN());
  result.bias_share = result.baseline = RowVector<Scalar>::Zero(count);
  const std::vector<Index> positions = detail::positions_of(targets);
  run_.need_logits(positions);
  for (const Target& target : targets) run_.check(target);

  const bool without_maps = options.reduction == ReductionKind::mean && options.rollout.discard_ratio == Scalar(0);
  const std::optional<Matrix<Scalar>> taken = run_.taken_rows(method, positions, options);
  if (taken) {
    result.scores = *taken;
  } else if (method == Method::raw) {
    need(false, true);
    Reduction<Scalar> reduction;
    reduction.kind = options.reduction;
    Selection selection;
    selection.rows = positions;
    selection.executor = run_.options().executor;
    const std::vector<Index> layers = run_.layers_of(options);
    for (const Index layer : layers)
      result.scores.leftCols(run_.read()) += run_.attention_of_layer(layer, options.terms).reduce(reduction, selection);
    result.scores /= static_cast<Scalar>(layers.size());
    detail::check_finite("raw attention", "the reduced map", result.scores);
  } else if (method == Method::rollout && !(without_maps && 4 * count < tokens())) {
    MethodOptions<Scalar> whole = options;
    whole.with_map = true;
    need(run_.reads_whole(method, options), true);  // the map of what was read has all rows that are asked for
    const Attribution<Scalar> rolled = explain_read(method, targets.front(), whole);
    for (Index row = 0; row < count; ++row)
      result.scores.row(row).head(run_.read()) = rolled.map.row(positions[static_cast<std::size_t>(row)]);
    result.zero_rows = rolled.zero_rows;
  } else if (method_info(method).from_vectors) {
    need(false, true);
    result.scores.leftCols(run_.read()) = detail::MapMethods<Scalar>(run_).by_vectors(method, targets, options);
  } else if (method == Method::leave_one_out) {
    const detail::TokenRemovals<Scalar> removals(run_, options);
    for (Index row = 0; row < count; ++row) result.explained[row] = run_.value(targets[static_cast<std::size_t>(row)]);
    std::vector<Index> removed(static_cast<std::size_t>(run_.seen_by(*std::max_element(positions.begin(), positions.end()))));
    std::iota(removed.begin(), removed.end(), Index(0));
    const Matrix<Scalar> values = removals.values_without_each(removed, targets);
    result.scores.leftCols(values.rows()) = (-values.transpose()).colwise() + result.explained.transpose();
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

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
