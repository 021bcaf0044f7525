// The explainer's methods that walk back through the model: gradient-weighted forms, edge maps, gradient x input, the two walks with held
// operators, integrated gradients. explainer.hpp includes this header.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/models/explainer.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
Attribution<S> Explainer<S>::weighted(GradientForm form, const Target& target, const MethodOptions<Scalar>& options) {
  if (!options.with_map)
    return walked(form == GradientForm::exact           ? Method::gradient
                  : form == GradientForm::mean_gradient ? Method::gradient_mean
                                                        : Method::gradient_maximum,
                  target, options);
  const BackwardPass<Scalar>& backward_pass = gradients(target);
  const auto layer_of = [&](Index index) {
    const Index layer = mixing_[static_cast<std::size_t>(index)];
    const LayerPass<Scalar> layer_pass = model_.layer_pass(pass_, layer, options_.executor, false);
    const LayerBackward<Scalar>& d = backward_pass.layers[static_cast<std::size_t>(layer)];
    return LayerWithGradients<Scalar>{model_.implicit_attention(layer_pass, layer, options.terms), layer_pass.x(), d.y, d.residual};
  };
  return at(gradient_weighted_attention_map<Scalar>(mixing_count(), read(), layer_of, form, options.rollout.start_layer, options_.executor),
            target.position);
}

template <Real S>
Attribution<S> Explainer<S>::walked(Method method, const Target& target, const MethodOptions<Scalar>& options) {
  const bool planned = plan_.has(method) && same_way(options, plan_.options);
  if (planned && walked_target_ && same(*walked_target_, target))
    for (const auto& [made, result] : walked_)
      if (made == method) return result;

  const auto made = [&](Method of) { return of == method || (planned && plan_.has(of)); };
  std::vector<std::pair<Method, GradientWeightedRow<Scalar>>> rows;
  for (const auto& [of, form] :
       {std::pair(Method::gradient, GradientForm::exact), std::pair(Method::gradient_mean, GradientForm::mean_gradient),
        std::pair(Method::gradient_maximum, GradientForm::token_maximum)})
    if (made(of))
      rows.emplace_back(of, GradientWeightedRow<Scalar>(mixing_count(), read(), form, target.position, options.rollout.start_layer));
  // What is wrong with a layer or a head is for the edge map to say, and for no other method.
  const bool sums_edges = method == Method::edge_map || (made(Method::edge_map) && mixes(options.layer) && options.heads.empty());
  const std::vector<Index> edge_layers = sums_edges ? mixing_layers_of(Method::edge_map, options) : std::vector<Index>();
  RowVector<Scalar> edge_columns = RowVector<Scalar>::Zero(read());
  BackwardOptions<Scalar> walk;
  walk.keep_layers = false;
  walk.executor = options_.executor;
  Index next = mixing_count();
  if (!rows.empty() || sums_edges)
    walk.visit = [&](Index layer, const LayerPass<Scalar>& pass, const LayerBackward<Scalar>& d) {
      if (pass.mixers.empty()) return;
      if (std::find(edge_layers.begin(), edge_layers.end(), layer) != edge_layers.end())
        detail::add_edge_columns(edge_columns, pass, d, options.terms,
                                 detail::channels_of_heads(method_info(Method::edge_map).name, layer, pass, options.heads),
                                 options_.executor);
      --next;
      if (rows.empty() || next < options.rollout.start_layer) return;
      const LayerWithGradients<Scalar> with{model_.implicit_attention(pass, layer, options.terms), pass.x(), d.y, d.residual};
      for (auto& [of, row] : rows) row.step(next, with, options_.executor);
    };
  const BackwardPass<Scalar> back = backward(model_, pass_, logit_gradient(pass_, target.position, target.token, target.contrast), walk);
  std::vector<std::pair<Method, Attribution<Scalar>>> results;
  for (auto& [of, row] : rows) results.emplace_back(of, row.result());
  if (sums_edges) {
    detail::check_layers(method_info(Method::edge_map).name, static_cast<Index>(edge_layers.size()));
    results.emplace_back(Method::edge_map, Attribution<Scalar>());
    results.back().second.position = target.position;
    results.back().second.scores = edge_columns / static_cast<Scalar>(edge_layers.size());
    detail::check_finite(method_info(Method::edge_map).name, "the result", results.back().second.scores);
  }
  if (made(Method::gradient_x_input)) {
    results.emplace_back(Method::gradient_x_input, gradient_x_input<Scalar>(*pass_.embeddings, *back.embeddings, target.position));
    results.back().second.explained = value(target);
  }
  const auto asked = std::find_if(results.begin(), results.end(), [&](const auto& one) { return one.first == method; });
  Attribution<Scalar> result = asked->second;
  if (planned) {
    walked_ = std::move(results);
    walked_target_ = target;
  }
  return result;
}

template <Real S>
Attribution<S> Explainer<S>::edges(const Target& target, const MethodOptions<Scalar>& options) {
  if (!options.with_map) return walked(Method::edge_map, target, options);
  const std::string_view name = method_info(Method::edge_map).name;
  const std::vector<Index> layers = mixing_layers_of(Method::edge_map, options);
  detail::check_layers(name, static_cast<Index>(layers.size()));
  Attribution<Scalar> result;
  result.position = target.position;
  const auto add = [&](Index layer, const LayerPass<Scalar>& pass, const LayerBackward<Scalar>& d) {
    if (std::find(layers.begin(), layers.end(), layer) != layers.end())
      detail::add_edge_map(result.map, pass, d, options.terms, detail::channels_of_heads(name, layer, pass, options.heads),
                           options_.executor);
  };
  if (backward_ && same(*backward_target_, target)) {  // the caller's, kept by gradients(): no walk
    for (Index layer = model_.layer_count(); layer-- > 0;)
      if (std::find(layers.begin(), layers.end(), layer) != layers.end())
        add(layer, model_.layer_pass(pass_, layer, options_.executor, false), backward_->layers[static_cast<std::size_t>(layer)]);
  } else {  // one layer's gradients at a time
    BackwardOptions<Scalar> walk;
    walk.keep_layers = false;
    walk.executor = options_.executor;
    walk.visit = add;
    (void)backward(model_, pass_, logit_gradient(pass_, target.position, target.token, target.contrast), walk);
  }
  result.map /= static_cast<Scalar>(layers.size());
  result.scores = result.map.colwise().sum();
  return result;
}

template <Real S>
Attribution<S> Explainer<S>::held_walk(Method method, const Target& target, const MethodOptions<Scalar>& options) const {
  Attribution<Scalar> result;
  result.position = target.position;
  result.explained = value(target);
  const bool by_columns = method == Method::relevance_attention;
  const std::vector<Index> layers = by_columns ? mixing_layers_of(method, options) : mixing_;
  RowVector<Scalar> columns = RowVector<Scalar>::Zero(read());
  BackwardOptions<Scalar> walk = held_attention_walk<Scalar>(options.terms, options_.executor);
  walk.keep_layers = false;
  if (by_columns)
    walk.visit = [&](Index layer, const LayerPass<Scalar>& pass, const LayerBackward<Scalar>& gradients) {
      if (std::find(layers.begin(), layers.end(), layer) == layers.end()) return;
      const auto channels = detail::channels_of_heads(method_info(method).name, layer, pass, options.heads);
      for (std::size_t index = 0; index < pass.mixers.size(); ++index) {
        const MixerRun<Scalar>& mixer = pass.mixers[index];
        detail::add_products<Scalar>(columns, mixer.x.numbers, *gradients.mixers_x[index], channels[index]);
        if (mixer.second_x.empty()) continue;
        // Its input may be what x is made of (RWKV-7's value), whose gradient holds both paths' parts.
        if (const ImplicitAttention<Scalar> attention = mixer.attention(options.terms); attention.has_second())
          detail::add_products<Scalar>(columns, attention.second_input(),
                                       attention.second().apply_transpose(*gradients.mixers_y[index], options_.executor), channels[index]);
      }
    };
  const BackwardPass<Scalar> walked = backward(model_, pass_, logit_gradient(pass_, target.position, target.token, target.contrast), walk);
  result.bias_share = walked.bias_share;
  result.untreated = walked.untreated;
  result.scores = by_columns ? RowVector<Scalar>(columns / static_cast<Scalar>(layers.size()))
                             : RowVector<Scalar>((*pass_.embeddings).cwiseProduct(*walked.embeddings).rowwise().sum().transpose());
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
  GradientsAt<Scalar> gradient_at;
  gradient_at.together = texts_a_run(length);
  gradient_at.gradients = [&](const std::vector<Matrix<Scalar>>& points) {
    ForwardOptions keeping = run;
    keeping.keep = Keep::residuals;  // what a walk reads, and nothing else
    keeping.memory = std::numeric_limits<std::size_t>::max();
    keeping.keep_mixers = false;
    Matrix<Scalar> embeddings(static_cast<Index>(points.size()) * length, model_.width());
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
    const ForwardPass<Scalar> pass = model_.forward_embeddings(embeddings, keeping);
    BackwardOptions<Scalar> backward_options;
    backward_options.keep_layers = false;
    backward_options.executor = options_.executor;
    Matrix<Scalar> d_logits = Matrix<Scalar>::Zero(pass.logits.rows(), pass.logits.cols());  // of the sum: no point's depends on another
    for (const Index answer : answers) d_logits += logit_gradient(pass, answer, target.token, target.contrast);
    const BackwardPass<Scalar> back = backward(model_, pass, d_logits, backward_options);
    std::vector<Matrix<Scalar>> gradients;
    for (const Index answer : answers) gradients.push_back((*back.embeddings).middleRows(answer - target.position, length));
    return gradients;
  };
  const Matrix<Scalar> input = pass_.embeddings.matrix().topRows(length);
  IntegrationLimits limits;
  limits.tolerance = options.integration_tolerance;
  Attribution<Scalar> result =
      options.integration_steps > 0
          ? integrated_gradients<Scalar>(input, baseline, value_at, gradient_at, target.position, options.integration_steps)
          : integrated_gradients_within<Scalar>(input, baseline, value_at, gradient_at, target.position, limits);
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
