// The explainer's methods that need only the layers' maps, and no walk back: raw attention, rollout, and those by vectors.
#pragma once

#include <numeric>
#include <utility>
#include <vector>

#include <implicit_attention/models/explainer_runs.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A map's row at a position.
template <Real Scalar>
[[nodiscard]] Attribution<Scalar> at_position(Attribution<Scalar> whole, Index position) {
  whole.position = position;
  whole.scores = whole.map.row(position);
  return whole;
}

/// Raw attention, rollout and the methods by vectors, on a run that has what they read: the caller has asked it for that.
/// The run must outlive it.
template <Real S>
class MapMethods {
 public:
  using Scalar = S;
  explicit MapMethods(const ExplainedRun<Scalar>& run) : run_(&run) {}

  [[nodiscard]] Attribution<Scalar> raw(Index position, const MethodOptions<Scalar>& options) const;
  [[nodiscard]] Attribution<Scalar> rolled_out(Index position, const MethodOptions<Scalar>& options) const;

  /// The methods by vectors, a row a target, (targets, tokens read).
  [[nodiscard]] Matrix<Scalar> by_vectors(Method method, const std::vector<Target>& targets, const MethodOptions<Scalar>& options) const;
  [[nodiscard]] Attribution<Scalar> one_by_vectors(Method method, const Target& target, const MethodOptions<Scalar>& options) const;

 private:
  const ExplainedRun<Scalar>* run_;
};

template <Real S>
Attribution<S> MapMethods<S>::raw(Index position, const MethodOptions<Scalar>& options) const {
  const auto attention_of = [&](Index index) { return run_->attention_of_mixing(index, options.terms); };
  Reduction<Scalar> reduction;
  reduction.kind = options.reduction;
  if (!options.with_map)
    return options.layer
               ? raw_attention(run_->attention_of_layer(*options.layer, options.terms), position, reduction, run_->options().executor)
               : raw_attention<Scalar>(run_->mixing_count(), attention_of, position, reduction, run_->options().executor);
  Selection selection;
  selection.executor = run_->options().executor;
  return at_position<Scalar>(options.layer
                                 ? raw_attention_map(run_->attention_of_layer(*options.layer, options.terms), reduction, selection)
                                 : raw_attention_map<Scalar>(run_->mixing_count(), attention_of, reduction, selection),
                             position);
}

template <Real S>
Attribution<S> MapMethods<S>::rolled_out(Index position, const MethodOptions<Scalar>& options) const {
  const auto attention_of = [&](Index index) { return run_->attention_of_mixing(index, options.terms); };
  const Index layers = run_->mixing_count();
  Reduction<Scalar> reduction;
  reduction.kind = options.reduction;
  Selection selection;
  selection.executor = run_->options().executor;
  const auto map_of = [&](Index layer) { return attention_of(layer).reduce(reduction, selection); };
  if (options.with_map) return at_position<Scalar>(rollout_map<Scalar>(layers, run_->read(), map_of, options.rollout), position);
  if (options.reduction == ReductionKind::mean && options.rollout.discard_ratio == Scalar(0))
    return rollout_matrix_free<Scalar>(layers, attention_of, position, options.rollout, run_->options().executor);
  return rollout<Scalar>(layers, run_->read(), map_of, position, options.rollout);
}

template <Real S>
Matrix<S> MapMethods<S>::by_vectors(Method method, const std::vector<Target>& targets, const MethodOptions<Scalar>& options) const {
  if (method == Method::alti_logit) return alti_logit(run_->model(), run_->pass(), targets, options.terms, run_->options().executor);
  const std::vector<Index> positions = positions_of(targets);
  if (method == Method::contribution_rollout)
    return contribution_rollout(run_->model(), run_->pass(), positions, options.terms, run_->options().executor);
  return contribution_norms(run_->model(), run_->pass(), positions, run_->mixing_layers_of(method, options), options.terms,
                            run_->options().executor);
}

template <Real S>
Attribution<S> MapMethods<S>::one_by_vectors(Method method, const Target& target, const MethodOptions<Scalar>& options) const {
  if (!options.with_map || !method_info(method).has_map) return only_row(by_vectors(method, {target}, options), target.position);
  Attribution<Scalar> result;
  std::vector<Index> positions(static_cast<std::size_t>(run_->read()));
  std::iota(positions.begin(), positions.end(), Index(0));
  result.map = by_vectors(method, targets_at(positions, target.token), options);
  return at_position<Scalar>(std::move(result), target.position);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
