// Every method by its name, for a whole language model: what a command line or an evaluation calls. Forward and backward passes are run
// once and shared between methods.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/baselines.hpp>
#include <implicit_attention/attribution/gradient.hpp>
#include <implicit_attention/attribution/method_options.hpp>
#include <implicit_attention/models/backward.hpp>
#include <implicit_attention/models/contribution_rollout.hpp>
#include <implicit_attention/models/edge_maps.hpp>
#include <implicit_attention/models/explanation_plan.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
/// Tokens with which a run's products are about as fast as a long text's: short texts run side by side until they are so many.
inline constexpr Index tokens_of_a_full_run = 256;
/// Tokens of a text up to which running the whole of it beside others costs less than going on from states before the removed token by itself.
inline constexpr Index tokens_of_a_short_text = 64;
}  // namespace detail

/// One text in one model, and why the model gave what it gave. The model's weights must stay alive where they are viewed.
template <Real S>
class Explainer {
 public:
  using Scalar = S;

  /// Runs the model on token ids (L), or on as many of them as the positions to be explained depend on: a causal model needs no token after
  /// the last of `options.logit_positions` but for Method::gradient_maximum, a rollout that discards entries of whole maps, and whole maps.
  /// Earlier positions can be explained as well: their logits are computed on request. With Keep::residuals, layers that
  /// `options.memory` has no room for are run again when they are asked for, and memory is bounded by one layer's activations beside it.
  Explainer(LanguageModel<Scalar> model, std::vector<Index> ids, ForwardOptions options = {}, ExplanationPlan<Scalar> plan = {})
      : model_(std::move(model)),
        ids_(std::move(ids)),
        options_(std::move(options)),
        plan_(std::move(plan)),
        mixing_(model_.mixing_layers()),
        positions_(ids_.empty() ? std::vector<Index>() : options_.logit_positions.resolve(tokens(), "logit position")) {
    if (!options_.starts.empty())
      detail::raise(ErrorKind::value, "Explainer: ForwardOptions::starts has ", static_cast<Index>(options_.starts.size()),
                    " entries, expected none: an Explainer explains one text, make one for each document");
    run(plan_.whole ||
            std::any_of(plan_.methods.begin(), plan_.methods.end(), [&](Method method) { return reads_whole(method, plan_.options); }),
        plan_.methods.empty() ||
            std::any_of(plan_.methods.begin(), plan_.methods.end(), [&](Method method) { return needs_layers(method); }));
  }

  [[nodiscard]] const LanguageModel<Scalar>& model() const { return model_; }
  /// The run: of the tokens that the positions to be explained depend on, which may be fewer than `tokens()`, with the logits at
  /// `options.logit_positions` and wherever else something has been explained.
  [[nodiscard]] const ForwardPass<Scalar>& pass() const { return pass_; }
  /// Tokens of the text: every result has a score for each.
  [[nodiscard]] Index tokens() const { return static_cast<Index>(ids_.size()); }

  /// The token with the largest logit at a position; of equal ones the first.
  [[nodiscard]] Index most_likely(Index position) const;

  /// The number explained. Fails on a position or token that is not there, and on NaN.
  [[nodiscard]] Scalar value(const Target& target) const;

  /// The gradients of what is explained with respect to everything in the model; kept for the target asked for last.
  [[nodiscard]] const BackwardPass<Scalar>& gradients(const Target& target);

  /// One score per input token by one method; zero after the target's position. Raw attention, rollout, contribution norms
  /// and their rollout, and random take the position alone; the others the whole target. See the methods' own headers for formulas and signs.
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
  [[nodiscard]] Scalar value_without(Index token, const Target& target, const MethodOptions<Scalar>& options) const;
  /// The same for several tokens, in rising order, each taken away alone, (tokens). A short text is run without each of several tokens side by
  /// side, as documents of one sequence, where the model keeps those apart. A longer one is run once up to each block of tokens, and from there
  /// on without each of the block's, where layers carry states; else once for each.
  [[nodiscard]] RowVector<Scalar> values_without(const std::vector<Index>& removed, const Target& target,
                                                 const MethodOptions<Scalar>& options) const;

 private:
  [[nodiscard]] static bool same(const Target& a, const Target& b);

  void check(const Target& target) const;
  void check_removal(const MethodOptions<Scalar>& options) const;

  [[nodiscard]] static Scalar value_of(ConstView<Scalar> logits, const Target& target);

  /// Runs the model: on the whole text, or on what the positions depend on; with its layers for later, or without.
  void run(bool whole, bool layers);
  /// Runs the model again where the run there is does not do for what is asked now.
  void need(bool whole, bool layers) {
    whole = whole || read() == tokens();
    if (read() < (whole ? tokens() : read()) || (layers && pass_.layers.empty())) run(whole, layers || !pass_.layers.empty());
  }
  /// Whether a method reads the whole text, whatever is explained: for its map, because it rescales maps by their largest entry, or because
  /// it discards a share of all entries.
  [[nodiscard]] static bool reads_whole(Method method, const MethodOptions<Scalar>& options) {
    return method == Method::gradient_maximum || (method == Method::rollout && options.rollout.discard_ratio != Scalar(0)) ||
           (options.with_map && method_info(method).has_map);
  }
  /// Whether the layer asked for, if one is, mixes tokens.
  [[nodiscard]] bool mixes(const std::optional<Index>& layer) const {
    return !layer || std::find(mixing_.begin(), mixing_.end(), *layer) != mixing_.end();
  }
  /// The layers that are explained: the one asked for, or all that mix tokens.
  [[nodiscard]] std::vector<Index> layers_of(const MethodOptions<Scalar>& options) const {
    if (options.layer) return {*options.layer};
    return mixing_;
  }
  /// The same; fails where the one asked for mixes no tokens, and where heads are asked for, and no layer.
  [[nodiscard]] std::vector<Index> mixing_layers_of(Method method, const MethodOptions<Scalar>& options) const {
    if (!mixes(options.layer))
      detail::raise(ErrorKind::value, method_info(method).name, ": layer ", *options.layer, " of ", model_.name(),
                    " is out of range or mixes no tokens, expected one of ", shape_text(mixing_));
    if (!options.heads.empty() && !options.layer && method_info(method).by_head)
      detail::raise(ErrorKind::value, method_info(method).name,
                    ": heads are those of one layer, expected MethodOptions::layer beside them");
    return layers_of(options);
  }
  /// Computes the logits at positions that the run has none of yet.
  void need_logits(const std::vector<Index>& positions);
  /// What `use` makes of the logits at a position, (1, vocabulary). Fails on a position that was not read.
  template <class Use>
  auto use_logits(Index position, const Use& use) const {
    if (position >= read())
      detail::raise(ErrorKind::value, "Explainer: position ", position, " cannot be explained: of ", tokens(), " tokens the model read ",
                    read(), ", which is what ForwardOptions::logit_positions asked for");
    if (has_logits(position)) return use(pass_.logits_at(position));
    return use(ConstView<Scalar>(model_.logits_of(ConstView<Scalar>(pass_.final_residual.matrix().middleRows(position, 1)))));
  }
  [[nodiscard]] bool has_logits(Index position) const {
    return std::find(pass_.logit_positions.begin(), pass_.logit_positions.end(), position) != pass_.logit_positions.end();
  }
  /// Tokens that the model was run on.
  [[nodiscard]] Index read() const { return pass_.tokens(); }
  /// Scores of the tokens that were read, and zeros for later ones.
  [[nodiscard]] Attribution<Scalar> of_all_tokens(Attribution<Scalar> result) const {
    const Index length = result.scores.size();
    result.scores.conservativeResize(tokens());
    result.scores.tail(tokens() - length).setZero();
    return result;
  }

  /// Whether a method reads the layers of the run once it has ended.
  [[nodiscard]] bool needs_layers(Method method) const { return method_info(method).reads_layers && !takes_rows(method); }
  /// Whether the rows that a method is the mean of are taken while the layers run: of few positions only, since they cost a row each.
  [[nodiscard]] bool takes_rows(Method method) const {
    return method_info(method).is_mean_row() && plan_.has(method) && !plan_.options.with_map && positions_.size() <= 64 &&
           mixes(plan_.options.layer);
  }
  /// Adds the rows of a layer that has just run to those taken before.
  void take_rows(Index layer, const LayerPass<Scalar>& pass);
  /// The rows taken during the run, of these positions; nothing where they were not, or with other options.
  [[nodiscard]] std::optional<Matrix<Scalar>> taken_rows(Method method, const std::vector<Index>& positions,
                                                         const MethodOptions<Scalar>& options) const;

  /// The row of a gradient-weighted form, gradient x input, or the columns of edge maps: what the plan has of them is made in one walk,
  /// each layer's map when its gradients are there, and nothing else is kept.
  [[nodiscard]] Attribution<Scalar> walked(Method method, const Target& target, const MethodOptions<Scalar>& options);

  [[nodiscard]] Attribution<Scalar> explain_read(Method method, const Target& target, const MethodOptions<Scalar>& options);

  /// How many tokens a position's logits depend on: later ones cannot matter to a causal model.
  [[nodiscard]] Index seen_by(Index position) const { return model_.causal() ? position + 1 : tokens(); }
  template <class Element>
  [[nodiscard]] std::vector<Element> prefix(const std::vector<Element>& all, Index position) const {
    return {all.begin(), all.begin() + std::min(static_cast<std::ptrdiff_t>(all.size()), static_cast<std::ptrdiff_t>(seen_by(position)))};
  }
  /// Runs that need nothing after what the position sees, and no more than its logits.
  [[nodiscard]] ForwardOptions prefix_options(Index position) const;

  /// value_without of several tokens, in rising order, for several targets, (removed, targets).
  [[nodiscard]] Matrix<Scalar> values_without_each(const std::vector<Index>& removed, const std::vector<Target>& targets,
                                                   const MethodOptions<Scalar>& options) const;
  /// The same in one run: of one token from the states that the tokens before `start` left, or of several without states, from token 0 on.
  [[nodiscard]] Matrix<Scalar> values_without_in_one_run(const std::vector<Index>& removed, const std::vector<Target>& targets,
                                                         const MethodOptions<Scalar>& options, Index start, const CarriedStates* states,
                                                         const Executor& executor) const;
  /// How many texts of so many tokens run side by side, as documents of one sequence.
  [[nodiscard]] Index texts_a_run(Index length) const {
    return model_.causal() && model_.separates_documents() ? std::max<Index>(1, detail::tokens_of_a_full_run / length) : 1;
  }

  [[nodiscard]] Attribution<Scalar> raw(Index position, const MethodOptions<Scalar>& options) const;
  [[nodiscard]] Attribution<Scalar> rolled_out(Index position, const MethodOptions<Scalar>& options) const;

  [[nodiscard]] Attribution<Scalar> weighted(GradientForm form, const Target& target, const MethodOptions<Scalar>& options);

  /// Vector rollout: g_l = g_{l+1} + N_l^T W_in^T A_l^T W_o^T g_{l+1} with norm scales N and all of A (its gate too) held, feed-forward
  /// parts by relevance's rules; the score of token j is <e_j, g_0,j>. Relevance-attention: the mean over layers of
  /// sum_e x_e o A_e^T (W_o^T g)_e on the same walk, or of one layer. Both with any set of terms.
  [[nodiscard]] Attribution<Scalar> held_walk(Method method, const Target& target, const MethodOptions<Scalar>& options) const;

  /// The mean of edge maps over layers, G_l[i,j] = sum_e g_l[i,e] A_e[i,j] x_e[j] with g_l = d value / d y_l, and the sums of its columns;
  /// without the map these alone, in linear time.
  [[nodiscard]] Attribution<Scalar> edges(const Target& target, const MethodOptions<Scalar>& options);

  /// The methods by vectors, a row a target, (targets, tokens read).
  [[nodiscard]] Matrix<Scalar> by_vectors(Method method, const std::vector<Target>& targets, const MethodOptions<Scalar>& options) const;
  [[nodiscard]] Attribution<Scalar> one_by_vectors(Method method, const Target& target, const MethodOptions<Scalar>& options) const;

  [[nodiscard]] Attribution<Scalar> integrated(const Target& target, const MethodOptions<Scalar>& options) const;

  /// A map's row at a position.
  [[nodiscard]] static Attribution<Scalar> at(Attribution<Scalar> whole, Index position);
  /// Whether two sets of options ask for the same maps.
  [[nodiscard]] static bool same_way(const MethodOptions<Scalar>& a, const MethodOptions<Scalar>& b) {
    return a.terms == b.terms && a.reduction == b.reduction && a.layer == b.layer && a.heads == b.heads &&
           a.rollout.start_layer == b.rollout.start_layer;
  }

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
  ExplanationPlan<Scalar> plan_;
  std::vector<Index> mixing_, positions_;
  ForwardPass<Scalar> pass_;
  std::vector<std::pair<Method, Matrix<Scalar>>> rows_;  // those taken during the run: (positions, tokens read), summed over layers
  std::optional<BackwardPass<Scalar>> backward_;
  std::optional<Target> backward_target_, walked_target_;
  std::vector<std::pair<Method, Attribution<Scalar>>> walked_;  // by walked_target_, with the plan's options
};

template <Real S>
Index Explainer<S>::most_likely(Index position) const {
  detail::check_position("argmax", position, tokens());
  return use_logits(position, [](ConstView<Scalar> logits) {
    detail::check_finite("argmax", "the logits", logits);
    Index best = 0;
    logits.row(0).maxCoeff(&best);
    return best;
  });
}

template <Real S>
S Explainer<S>::value(const Target& target) const {
  check(target);
  return use_logits(target.position, [&](ConstView<Scalar> logits) { return value_of(logits, target); });
}

template <Real S>
Attribution<S> Explainer<S>::explain(Method method, const Target& target, const MethodOptions<Scalar>& options) {
  need_logits({target.position});
  check(target);
  if (const std::optional<Matrix<Scalar>> rows = taken_rows(method, {target.position}, options))
    return detail::only_row(*rows, target.position);
  need(reads_whole(method, options), method_info(method).reads_layers);
  return of_all_tokens(explain_read(method, target, options));
}

template <Real S>
Attribution<S> Explainer<S>::explain_read(Method method, const Target& target, const MethodOptions<Scalar>& options) {
  const Scalar explained = value(target);
  const Index position = target.position;
  switch (method) {
    case Method::raw:
      return raw(position, options);
    case Method::rollout:
      return rolled_out(position, options);
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
    case Method::edge_map:
      return edges(target, options);
    case Method::contribution_norms:
    case Method::contribution_rollout:
    case Method::alti_logit:
      return one_by_vectors(method, target, options);
    case Method::gradient_x_input:
      return walked(method, target, options);
    case Method::integrated_gradients:
      return integrated(target, options);
    case Method::leave_one_out:
      check_removal(options);
      {
        std::vector<Index> removed(static_cast<std::size_t>(seen_by(position)));
        std::iota(removed.begin(), removed.end(), Index(0));
        const RowVector<Scalar> values = values_without(removed, target, options);
        return leave_one_out<Scalar>(
            tokens(), explained, [&](Index token) { return values[token]; }, position, serial_executor(), seen_by(position));
      }
    case Method::random:
      break;
  }
  return random_attribution<Scalar>(tokens(), position, options.seed, seen_by(position));
}

template <Real S>
AttributionMatrix<S> Explainer<S>::explain_each(Method method, const std::vector<Target>& targets, const MethodOptions<Scalar>& options) {
  if (targets.empty()) detail::raise(ErrorKind::value, "explain_each: there are no targets, expected at least one");
  const auto count = static_cast<Index>(targets.size());
  AttributionMatrix<Scalar> result;
  result.scores = Matrix<Scalar>::Zero(count, tokens());
  result.explained = RowVector<Scalar>::Constant(count, std::numeric_limits<Scalar>::quiet_NaN());
  result.bias_share = result.baseline = RowVector<Scalar>::Zero(count);
  std::vector<Index> positions;
  for (const Target& target : targets) positions.push_back(target.position);
  need_logits(positions);
  for (const Target& target : targets) check(target);

  const bool without_maps = options.reduction == ReductionKind::mean && options.rollout.discard_ratio == Scalar(0);
  const std::optional<Matrix<Scalar>> taken = taken_rows(method, positions, options);
  if (taken) {
    result.scores = *taken;
  } else if (method == Method::raw) {
    need(false, true);
    Reduction<Scalar> reduction;
    reduction.kind = options.reduction;
    Selection selection;
    selection.rows = positions;
    selection.executor = options_.executor;
    const std::vector<Index> layers = layers_of(options);
    for (const Index layer : layers)
      result.scores.leftCols(read()) += attention_of_layer(layer, options.terms).reduce(reduction, selection);
    result.scores /= static_cast<Scalar>(layers.size());
    detail::check_finite("raw attention", "the reduced map", result.scores);
  } else if (method == Method::rollout && !(without_maps && 4 * count < tokens())) {
    MethodOptions<Scalar> whole = options;
    whole.with_map = true;
    need(reads_whole(method, options), true);  // the map of what was read has all rows that are asked for
    const Attribution<Scalar> rolled = explain_read(method, targets.front(), whole);
    for (Index row = 0; row < count; ++row) result.scores.row(row).head(read()) = rolled.map.row(positions[static_cast<std::size_t>(row)]);
    result.zero_rows = rolled.zero_rows;
  } else if (method_info(method).from_vectors) {
    need(false, true);
    result.scores.leftCols(read()) = by_vectors(method, targets, options);
  } else if (method == Method::leave_one_out) {
    check_removal(options);
    for (Index row = 0; row < count; ++row) result.explained[row] = value(targets[static_cast<std::size_t>(row)]);
    std::vector<Index> removed(static_cast<std::size_t>(seen_by(*std::max_element(positions.begin(), positions.end()))));
    std::iota(removed.begin(), removed.end(), Index(0));
    const Matrix<Scalar> values = values_without_each(removed, targets, options);
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

#include <implicit_attention/models/explainer_maps.hpp>
#include <implicit_attention/models/explainer_removals.hpp>
#include <implicit_attention/models/explainer_runs.hpp>
#include <implicit_attention/models/explainer_walks.hpp>
