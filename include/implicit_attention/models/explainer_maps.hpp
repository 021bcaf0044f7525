// The explainer's methods that are made of the layers' maps, forwards alone: raw attention, rollout, and those by vectors. explainer.hpp
// includes this header.
#pragma once

#include <numeric>
#include <utility>
#include <vector>

#include <implicit_attention/models/explainer.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
Attribution<S> Explainer<S>::raw(Index position, const MethodOptions<Scalar>& options) const {
  const auto attention_of = [&](Index index) { return attention_of_mixing(index, options.terms); };
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

template <Real S>
Attribution<S> Explainer<S>::rolled_out(Index position, const MethodOptions<Scalar>& options) const {
  const auto attention_of = [&](Index index) { return attention_of_mixing(index, options.terms); };
  const Index layers = mixing_count();
  Reduction<Scalar> reduction;
  reduction.kind = options.reduction;
  Selection selection;
  selection.executor = options_.executor;
  const auto map_of = [&](Index layer) { return attention_of(layer).reduce(reduction, selection); };
  if (options.with_map) return at(rollout_map<Scalar>(layers, read(), map_of, options.rollout), position);
  if (options.reduction == ReductionKind::mean && options.rollout.discard_ratio == Scalar(0))
    return rollout_matrix_free<Scalar>(layers, attention_of, position, options.rollout, options_.executor);
  return rollout<Scalar>(layers, read(), map_of, position, options.rollout);
}

template <Real S>
Matrix<S> Explainer<S>::by_vectors(Method method, const std::vector<Target>& targets, const MethodOptions<Scalar>& options) const {
  if (method == Method::alti_logit) return alti_logit(model_, pass_, targets, options.terms, options_.executor);
  std::vector<Index> positions;
  for (const Target& target : targets) positions.push_back(target.position);
  if (method == Method::contribution_rollout) return contribution_rollout(model_, pass_, positions, options.terms, options_.executor);
  return contribution_norms(model_, pass_, positions, mixing_layers_of(method, options), options.terms, options_.executor);
}

template <Real S>
Attribution<S> Explainer<S>::one_by_vectors(Method method, const Target& target, const MethodOptions<Scalar>& options) const {
  if (!options.with_map || !method_info(method).has_map) return detail::only_row(by_vectors(method, {target}, options), target.position);
  Attribution<Scalar> result;
  std::vector<Index> positions(static_cast<std::size_t>(read()));
  std::iota(positions.begin(), positions.end(), Index(0));
  result.map = by_vectors(method, targets_at(positions, target.token), options);
  return at(std::move(result), target.position);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
