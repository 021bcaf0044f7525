// Raw attention: which tokens a layer's reduced map weighs, of one layer or averaged over all.
#pragma once

#include <concepts>
#include <utility>

#include <implicit_attention/attribution/result.hpp>
#include <implicit_attention/operator/implicit_attention.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Gives the implicit attention of layer 0, 1, ...: a vector's element, or computed when asked for, so that one layer exists at a time.
template <class Source, class Scalar>
concept AttentionSource =
    std::invocable<const Source&, Index> && std::convertible_to<std::invoke_result_t<const Source&, Index>, ImplicitAttention<Scalar>>;

/// Row `position` of one layer's map: scores[j] = A_e[position, j] reduced over channels e (see Reduction). Costs one row.
/// With the mean the scores are signed; a larger one is more attention. Ali et al. 2024 (arXiv 2403.01590), section 3.
template <Real Scalar>
[[nodiscard]] Attribution<Scalar> raw_attention(const ImplicitAttention<Scalar>& attention, Index position,
                                                const Reduction<Scalar>& reduction = {}, const Executor& executor = serial_executor()) {
  detail::check_position("raw attention", position, attention.tokens());
  Selection selection;
  selection.rows = Indices({position});
  selection.executor = executor;
  Attribution<Scalar> result;
  result.position = position;
  result.scores = attention.reduce(reduction, selection).row(0);
  detail::check_finite("raw attention", "the reduced map", result.scores);
  return result;
}

/// The same averaged over `layers` layers: scores[j] = mean over layers of the reduced map's row.
template <Real Scalar, AttentionSource<Scalar> Source>
[[nodiscard]] Attribution<Scalar> raw_attention(Index layers, const Source& attention_of, Index position,
                                                const Reduction<Scalar>& reduction, const Executor& executor = serial_executor()) {
  detail::check_layers("raw attention", layers);
  Attribution<Scalar> result;
  for (Index layer = 0; layer < layers; ++layer) {
    Attribution<Scalar> one = raw_attention(ImplicitAttention<Scalar>(attention_of(layer)), position, reduction, executor);
    if (layer == 0)
      result = std::move(one);
    else
      result.scores += one.scores;
  }
  result.scores /= static_cast<Scalar>(layers);
  return result;
}

/// The whole map of one layer, row = output token; scores are its last row.
template <Real Scalar>
[[nodiscard]] Attribution<Scalar> raw_attention_map(const ImplicitAttention<Scalar>& attention, const Reduction<Scalar>& reduction = {},
                                                    const Selection& selection = {}) {
  detail::check_position("raw attention", attention.tokens() - 1, attention.tokens());
  Selection all_rows = selection;
  all_rows.rows = Indices::all();
  Attribution<Scalar> result;
  result.position = attention.tokens() - 1;
  result.map = attention.reduce(reduction, all_rows);
  detail::check_finite("raw attention", "the reduced map", result.map);
  result.scores = result.map.row(result.position);
  return result;
}

/// The same averaged over `layers` layers.
template <Real Scalar, AttentionSource<Scalar> Source>
[[nodiscard]] Attribution<Scalar> raw_attention_map(Index layers, const Source& attention_of, const Reduction<Scalar>& reduction,
                                                    const Selection& selection = {}) {
  detail::check_layers("raw attention", layers);
  Attribution<Scalar> result;
  for (Index layer = 0; layer < layers; ++layer) {
    Attribution<Scalar> one = raw_attention_map(ImplicitAttention<Scalar>(attention_of(layer)), reduction, selection);
    if (layer == 0)
      result = std::move(one);
    else
      result.map += one.map;
  }
  result.map /= static_cast<Scalar>(layers);
  result.scores = result.map.row(result.position);
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
