// The explainer's methods that walk back through the model: gradient-weighted forms, edge maps, gradient x input, the two walks with held
// operators, integrated gradients.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/baselines.hpp>
#include <implicit_attention/attribution/gradient.hpp>
#include <implicit_attention/models/backward.hpp>
#include <implicit_attention/models/edge_maps.hpp>
#include <implicit_attention/models/explainer_maps.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Results of walks back through one run, kept for the methods asked for next.
template <Real Scalar>
struct KeptWalks {
  std::optional<BackwardPass<Scalar>> backward;
  std::optional<Target> backward_target, walked_target;
  std::vector<std::pair<Method, Attribution<Scalar>>> walked;  ///< by walked_target, with the plan's options

  void forget() {
    backward.reset();
    walked_target.reset();
  }
};

/// The methods that walk back, on a run that has what they read: the caller has asked it for that.
/// The run and what is kept must outlive it.
template <Real S>
class WalkMethods {
 public:
  using Scalar = S;
  WalkMethods(const ExplainedRun<Scalar>& run, KeptWalks<Scalar>& kept) : run_(&run), kept_(&kept) {}

  /// The gradients with respect to everything in the model; kept for the target asked for last.
  [[nodiscard]] const BackwardPass<Scalar>& gradients(const Target& target);

  /// The row of a gradient-weighted form, gradient x input, or the columns of edge maps: what the plan has of them is made in one walk,
  /// each layer's map when its gradients are there, and nothing else is kept.
  [[nodiscard]] Attribution<Scalar> walked(Method method, const Target& target, const MethodOptions<Scalar>& options);

  [[nodiscard]] Attribution<Scalar> weighted(GradientForm form, const Target& target, const MethodOptions<Scalar>& options);

  /// Vector rollout: g_l = g_{l+1} + N_l^T W_in^T A_l^T W_o^T g_{l+1} with norm scales N and all of A (its gate too) held, feed-forward
  /// parts by relevance's rules; the score of token j is <e_j, g_0,j>. Relevance-attention: the mean over layers of
  /// sum_e x_e o A_e^T (W_o^T g)_e on the same walk, or of one layer. Both with any set of terms.
  [[nodiscard]] Attribution<Scalar> held_walk(Method method, const Target& target, const MethodOptions<Scalar>& options) const;

  /// The mean of edge maps over layers, G_l[i,j] = sum_e g_l[i,e] A_e[i,j] x_e[j] with g_l = d value / d y_l, and the sums of its columns;
  /// without the map these alone, in linear time.
  [[nodiscard]] Attribution<Scalar> edges(const Target& target, const MethodOptions<Scalar>& options);

  [[nodiscard]] Attribution<Scalar> integrated(const Target& target, const MethodOptions<Scalar>& options) const;

 private:
  const ExplainedRun<Scalar>* run_;
  KeptWalks<Scalar>* kept_;
};

template <Real S>
const BackwardPass<S>& WalkMethods<S>::gradients(const Target& target) {
  if (!kept_->backward || !ExplainedRun<Scalar>::same(*kept_->backward_target, target)) {
    BackwardOptions<Scalar> backward_options;
    backward_options.executor = run_->options().executor;
    kept_->backward = backward(run_->model(), run_->pass(), logit_gradient(run_->pass(), target.position, target.token, target.contrast),
                               backward_options);
    kept_->backward_target = target;
  }
  return *kept_->backward;
}

template <Real S>
Attribution<S> WalkMethods<S>::weighted(GradientForm form, const Target& target, const MethodOptions<Scalar>& options) {
  if (!options.with_map)
    return walked(form == GradientForm::exact           ? Method::gradient
                  : form == GradientForm::mean_gradient ? Method::gradient_mean
                                                        : Method::gradient_maximum,
                  target, options);
  const BackwardPass<Scalar>& backward_pass = gradients(target);
  const auto layer_of = [&](Index index) {
    const Index layer = run_->mixing()[static_cast<std::size_t>(index)];
    const LayerPass<Scalar> layer_pass = run_->model().layer_pass(run_->pass(), layer, run_->options().executor, false, LayerReads::maps);
    const LayerBackward<Scalar>& d = backward_pass.layers[static_cast<std::size_t>(layer)];
    return LayerWithGradients<Scalar>{run_->model().implicit_attention(layer_pass, layer, options.terms), layer_pass.x(), d.y, d.residual};
  };
  return at_position<Scalar>(gradient_weighted_attention_map<Scalar>(run_->mixing_count(), run_->read(), layer_of, form,
                                                                     options.rollout.start_layer, run_->options().executor),
                             target.position);
}

template <Real S>
Attribution<S> WalkMethods<S>::walked(Method method, const Target& target, const MethodOptions<Scalar>& options) {
  const bool planned = run_->plan().has(method) && ExplainedRun<Scalar>::same_way(options, run_->plan().options);
  if (planned && kept_->walked_target && ExplainedRun<Scalar>::same(*kept_->walked_target, target))
    for (const auto& [made, result] : kept_->walked)
      if (made == method) return result;

  const auto made = [&](Method of) { return of == method || (planned && run_->plan().has(of)); };
  std::vector<std::pair<Method, GradientWeightedRow<Scalar>>> rows;
  for (const auto& [of, form] :
       {std::pair(Method::gradient, GradientForm::exact), std::pair(Method::gradient_mean, GradientForm::mean_gradient),
        std::pair(Method::gradient_maximum, GradientForm::token_maximum)})
    if (made(of))
      rows.emplace_back(
          of, GradientWeightedRow<Scalar>(run_->mixing_count(), run_->read(), form, target.position, options.rollout.start_layer));
  // An option with a layer or head that does not exist is an error of the edge map only, and of no other method.
  const bool sums_edges = method == Method::edge_map || (made(Method::edge_map) && run_->mixes(options.layer) && options.heads.empty());
  const std::vector<Index> edge_layers = sums_edges ? run_->mixing_layers_of(Method::edge_map, options) : std::vector<Index>();
  RowVector<Scalar> edge_columns = RowVector<Scalar>::Zero(run_->read());
  BackwardOptions<Scalar> walk;
  walk.keep_layers = false;
  walk.executor = run_->options().executor;
  walk.reads = LayerReads::maps;
  Index next = run_->mixing_count();
  if (!rows.empty() || sums_edges)
    walk.visit = [&](Index layer, const LayerPass<Scalar>& pass, const LayerBackward<Scalar>& d) {
      if (pass.mixers.empty()) return;
      if (std::find(edge_layers.begin(), edge_layers.end(), layer) != edge_layers.end())
        add_edge_columns(edge_columns, pass, d, options.terms,
                         channels_of_heads(method_info(Method::edge_map).name, layer, pass, options.heads), run_->options().executor);
      --next;
      if (rows.empty() || next < options.rollout.start_layer) return;
      const LayerWithGradients<Scalar> with{run_->model().implicit_attention(pass, layer, options.terms), pass.x(), d.y, d.residual};
      for (auto& [of, row] : rows) row.step(next, with, run_->options().executor);
    };
  const BackwardPass<Scalar> back =
      backward(run_->model(), run_->pass(), logit_gradient(run_->pass(), target.position, target.token, target.contrast), walk);
  std::vector<std::pair<Method, Attribution<Scalar>>> results;
  for (auto& [of, row] : rows) results.emplace_back(of, row.result());
  if (sums_edges) {
    check_layers(method_info(Method::edge_map).name, static_cast<Index>(edge_layers.size()));
    results.emplace_back(Method::edge_map, Attribution<Scalar>());
    results.back().second.position = target.position;
    results.back().second.scores = edge_columns / static_cast<Scalar>(edge_layers.size());
    check_finite(method_info(Method::edge_map).name, "the result", results.back().second.scores);
  }
  if (made(Method::gradient_x_input)) {
    results.emplace_back(Method::gradient_x_input, gradient_x_input<Scalar>(*run_->pass().embeddings, *back.embeddings, target.position));
    results.back().second.explained = run_->value(target);
  }
  const auto asked = std::find_if(results.begin(), results.end(), [&](const auto& one) { return one.first == method; });
  Attribution<Scalar> result = asked->second;
  if (planned) {
    kept_->walked = std::move(results);
    kept_->walked_target = target;
  }
  return result;
}

template <Real S>
Attribution<S> WalkMethods<S>::edges(const Target& target, const MethodOptions<Scalar>& options) {
  if (!options.with_map) return walked(Method::edge_map, target, options);
  const std::string_view name = method_info(Method::edge_map).name;
  const std::vector<Index> layers = run_->mixing_layers_of(Method::edge_map, options);
  check_layers(name, static_cast<Index>(layers.size()));
  Attribution<Scalar> result;
  result.position = target.position;
  const auto add = [&](Index layer, const LayerPass<Scalar>& pass, const LayerBackward<Scalar>& d) {
    if (std::find(layers.begin(), layers.end(), layer) != layers.end())
      add_edge_map(result.map, pass, d, options.terms, channels_of_heads(name, layer, pass, options.heads), run_->options().executor);
  };
  if (kept_->backward && ExplainedRun<Scalar>::same(*kept_->backward_target, target)) {  // the caller's, kept by gradients(): no walk
    for (Index layer = run_->model().layer_count(); layer-- > 0;)
      if (std::find(layers.begin(), layers.end(), layer) != layers.end())
        add(layer, run_->model().layer_pass(run_->pass(), layer, run_->options().executor, false, LayerReads::maps),
            kept_->backward->layers[static_cast<std::size_t>(layer)]);
  } else {  // one layer's gradients at a time
    BackwardOptions<Scalar> walk;
    walk.keep_layers = false;
    walk.executor = run_->options().executor;
    walk.reads = LayerReads::maps;
    walk.visit = add;
    (void)backward(run_->model(), run_->pass(), logit_gradient(run_->pass(), target.position, target.token, target.contrast), walk);
  }
  result.map /= static_cast<Scalar>(layers.size());
  result.scores = result.map.colwise().sum();
  return result;
}

template <Real S>
Attribution<S> WalkMethods<S>::held_walk(Method method, const Target& target, const MethodOptions<Scalar>& options) const {
  Attribution<Scalar> result;
  result.position = target.position;
  result.explained = run_->value(target);
  const bool by_columns = method == Method::relevance_attention;
  const std::vector<Index> layers = by_columns ? run_->mixing_layers_of(method, options) : run_->mixing();
  RowVector<Scalar> columns = RowVector<Scalar>::Zero(run_->read());
  BackwardOptions<Scalar> walk = held_attention_walk<Scalar>(options.terms, run_->options().executor);
  walk.keep_layers = false;
  walk.reads = LayerReads::maps;
  if (by_columns)
    walk.visit = [&](Index layer, const LayerPass<Scalar>& pass, const LayerBackward<Scalar>& gradients) {
      if (std::find(layers.begin(), layers.end(), layer) == layers.end()) return;
      const auto channels = channels_of_heads(method_info(method).name, layer, pass, options.heads);
      for (std::size_t index = 0; index < pass.mixers.size(); ++index) {
        const MixerRun<Scalar>& mixer = pass.mixers[index];
        add_products<Scalar>(columns, mixer.x.numbers, *gradients.mixers_x[index], channels[index]);
        if (mixer.second_x.empty()) continue;
        // Its input may be what x is computed from (RWKV-7's value), whose gradient includes both paths' parts.
        if (const ImplicitAttention<Scalar> attention = mixer.attention(options.terms); attention.has_second())
          add_products<Scalar>(columns, attention.second_input(),
                               attention.second().apply_transpose(*gradients.mixers_y[index], run_->options().executor), channels[index]);
      }
    };
  const BackwardPass<Scalar> walked =
      backward(run_->model(), run_->pass(), logit_gradient(run_->pass(), target.position, target.token, target.contrast), walk);
  result.bias_share = walked.bias_share;
  result.untreated = walked.untreated;
  result.scores = by_columns ? RowVector<Scalar>(columns / static_cast<Scalar>(layers.size()))
                             : RowVector<Scalar>((*run_->pass().embeddings).cwiseProduct(*walked.embeddings).rowwise().sum().transpose());
  check_finite(method_info(method).name, "the result", result.scores);
  return result;
}

template <Real S>
Attribution<S> WalkMethods<S>::integrated(const Target& target, const MethodOptions<Scalar>& options) const {
  const Index length = run_->seen_by(target.position);
  Matrix<Scalar> baseline = Matrix<Scalar>::Zero(length, run_->model().width());
  if (!options.baseline.empty()) {
    check_vector("integrated gradients", "baseline", options.baseline, run_->model().width(), "width");
    baseline.rowwise() = options.baseline.matrix().row(0).eval();
  }
  ForwardOptions run = run_->prefix_options(target.position);
  run.executor = run_->options().executor;
  const auto value_at = [&](const Matrix<Scalar>& point) {
    return ExplainedRun<Scalar>::value_of(run_->model().forward_embeddings(point, run).logits, target);
  };
  GradientsAt<Scalar> gradient_at;
  gradient_at.together = run_->texts_a_run(length);
  gradient_at.gradients = [&](const std::vector<Matrix<Scalar>>& points) {
    ForwardOptions keeping = run;
    keeping.keep = Keep::residuals;  // what a walk reads, and nothing else
    keeping.memory = std::numeric_limits<std::size_t>::max();
    keeping.keep_mixers = false;
    Matrix<Scalar> embeddings(static_cast<Index>(points.size()) * length, run_->model().width());
    std::vector<Index> answers;
    keeping.positions.clear();
    for (const Matrix<Scalar>& point : points) {
      const Index start = static_cast<Index>(answers.size()) * length;
      embeddings.middleRows(start, length) = point;
      answers.push_back(start + target.position);
      keeping.positions.insert(keeping.positions.end(), run.positions.begin(), run.positions.end());
      if (points.size() > 1) keeping.starts.push_back(start);
    }
    keeping.logit_positions = Indices(answers);
    const ForwardPass<Scalar> pass = run_->model().forward_embeddings(embeddings, keeping);
    BackwardOptions<Scalar> backward_options;
    backward_options.keep_layers = false;
    backward_options.executor = run_->options().executor;
    Matrix<Scalar> d_logits = Matrix<Scalar>::Zero(pass.logits.rows(), pass.logits.cols());  // of the sum: no point's depends on another
    for (const Index answer : answers) d_logits += logit_gradient(pass, answer, target.token, target.contrast);
    const BackwardPass<Scalar> back = backward(run_->model(), pass, d_logits, backward_options);
    std::vector<Matrix<Scalar>> gradients;
    for (const Index answer : answers) gradients.push_back((*back.embeddings).middleRows(answer - target.position, length));
    return gradients;
  };
  const Matrix<Scalar> input = run_->pass().embeddings.matrix().topRows(length);
  IntegrationLimits limits;
  limits.tolerance = options.integration_tolerance;
  Attribution<Scalar> result =
      options.integration_steps > 0
          ? integrated_gradients<Scalar>(input, baseline, value_at, gradient_at, target.position, options.integration_steps)
          : integrated_gradients_within<Scalar>(input, baseline, value_at, gradient_at, target.position, limits);
  return result;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
