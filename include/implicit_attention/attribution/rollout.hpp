// Attention rollout (Abnar & Zuidema 2020, arXiv 2005.00928): the product over layers of maps with the residual connection in them.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/raw.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// How maps are rolled out. Per layer M = rownormalise(residual_weight * I + map); the result is M_last ... M_start.
template <Real Scalar>
struct RolloutOptions {
  Scalar residual_weight = 1;  ///< weight of the identity, which stands for the residual connection
  Index start_layer = 0;       ///< layers before it take no part
  /// In [0, 1): this share of each map's entries that are not zero, smallest absolute values first (of equal ones the first), is set to
  /// zero before the identity is added.
  Scalar discard_ratio = 0;
  /// Whether rows are divided by their sums. Off, the product is of residual_weight * I + map as they are (Chefer et al. 2021).
  bool normalize_rows = true;
};

/// Gives the map (tokens, tokens) of layer 0, 1, ...
template <class Source, class Scalar>
concept MapSource = std::invocable<const Source&, Index> && std::convertible_to<std::invoke_result_t<const Source&, Index>, Matrix<Scalar>>;

namespace detail {

template <Real Scalar>
void check_rollout(const RolloutOptions<Scalar>& options, Index layers) {
  check_layers("rollout", layers, options.start_layer);
  if (!std::isfinite(options.residual_weight))
    raise(ErrorKind::value, "rollout: the residual weight is ", options.residual_weight, ", expected a finite number");
  if (!(options.discard_ratio >= Scalar(0) && options.discard_ratio < Scalar(1)))
    raise(ErrorKind::value, "rollout: the discard ratio is ", options.discard_ratio, ", expected at least 0 and less than 1");
}

/// Whether residual_weight + map_sum is zero, exactly or within the rounding error of a map's row sum.
template <Real Scalar>
[[nodiscard]] bool zero_row_sum(Scalar residual_weight, Scalar map_sum, Index tokens) {
  const Scalar rounding = std::numeric_limits<Scalar>::epsilon() * static_cast<Scalar>(tokens);
  return std::abs(residual_weight + map_sum) <= rounding * std::max(std::abs(residual_weight), std::abs(map_sum));
}

/// Sets the smallest entries of a map to zero.
template <Real Scalar>
void discard_smallest(Matrix<Scalar>& map, Scalar ratio) {
  if (ratio == Scalar(0)) return;
  std::vector<Index> entries;
  for (Index entry = 0; entry < map.size(); ++entry)
    if (map.data()[entry] != Scalar(0)) entries.push_back(entry);
  const auto count = static_cast<std::ptrdiff_t>(std::floor(ratio * static_cast<Scalar>(entries.size())));
  if (count == 0) return;
  std::nth_element(entries.begin(), entries.begin() + (count - 1), entries.end(), [&](Index a, Index b) {
    const Scalar x = std::abs(map.data()[a]), y = std::abs(map.data()[b]);
    return x != y ? x < y : a < b;
  });
  std::for_each(entries.begin(), entries.begin() + count, [&](Index entry) { map.data()[entry] = Scalar(0); });
}

/// The factors that a layer's rows are multiplied by: one over their sums; 1, and a note in `zero_rows` if the row is used, where that
/// is zero.
template <Real Scalar, class Used>
[[nodiscard]] RowVector<Scalar> row_factors(const RowVector<Scalar>& map_sums, const RolloutOptions<Scalar>& options, Index layer,
                                            const Used& used, std::vector<LayerRow>& zero_rows) {
  RowVector<Scalar> factors = RowVector<Scalar>::Ones(map_sums.size());
  if (!options.normalize_rows) return factors;
  for (Index token = 0; token < map_sums.size(); ++token) {
    if (!zero_row_sum(options.residual_weight, map_sums[token], map_sums.size()))
      factors[token] = Scalar(1) / (options.residual_weight + map_sums[token]);
    else if (used(token))
      zero_rows.push_back({layer, token});
  }
  return factors;
}

/// row times M of one layer, M being rownormalise(residual_weight * I + map).
template <Real Scalar>
[[nodiscard]] RowVector<Scalar> rollout_step(const RowVector<Scalar>& row, Matrix<Scalar> map, const RolloutOptions<Scalar>& options,
                                             Index layer, std::vector<LayerRow>& zero_rows) {
  check_map("rollout", layer, map, row.size());
  discard_smallest(map, options.discard_ratio);
  const RowVector<Scalar> sums = map.rowwise().sum().transpose();
  const RowVector<Scalar> scaled = row.cwiseProduct(row_factors(
      sums, options, layer, [&](Index token) { return row[token] != Scalar(0); }, zero_rows));
  return options.residual_weight * scaled + scaled * map;
}

template <Real Scalar>
[[nodiscard]] Attribution<Scalar> begin_rollout(Index position, Index tokens) {
  check_position("rollout", position, tokens);
  Attribution<Scalar> result;
  result.position = position;
  result.scores = RowVector<Scalar>::Zero(tokens);
  result.scores[position] = Scalar(1);
  return result;
}

template <Real Scalar>
void end_rollout(Attribution<Scalar>& result) {
  check_finite("rollout", "the result", result.scores);
  std::reverse(result.zero_rows.begin(), result.zero_rows.end());  // found last layer first
}

}  // namespace detail

/// Row `position` of the rollout of maps given one at a time, last layer first: vector-matrix products, the product of matrices is never
/// formed and one map exists at a time. scores[j] = (M_last ... M_start)[position, j]; larger is more. With maps that are not negative
/// every row of the rollout sums to 1.
///
/// A row of residual_weight * I + map that sums to zero (signed maps can) cannot be divided: it is left as it is, and named in
/// `zero_rows` if row `position` depends on it.
template <Real Scalar, MapSource<Scalar> Source>
[[nodiscard]] Attribution<Scalar> rollout(Index layers, Index tokens, const Source& map_of, Index position,
                                          const RolloutOptions<Scalar>& options = {}) {
  detail::check_rollout(options, layers);
  Attribution<Scalar> result = detail::begin_rollout<Scalar>(position, tokens);
  for (Index layer = layers - 1; layer >= options.start_layer; --layer) {
    result.scores = detail::rollout_step<Scalar>(result.scores, map_of(layer), options, layer, result.zero_rows);
  }
  detail::end_rollout(result);
  return result;
}

/// The same from a list of maps.
template <Real Scalar>
[[nodiscard]] Attribution<Scalar> rollout(const std::vector<Matrix<Scalar>>& maps, Index position,
                                          const RolloutOptions<Scalar>& options = {}) {
  const auto map_of = [&](Index layer) -> const Matrix<Scalar>& { return maps[static_cast<std::size_t>(layer)]; };
  return rollout<Scalar>(static_cast<Index>(maps.size()), maps.empty() ? 0 : maps.front().rows(), map_of, position, options);
}

/// The whole rollout, M_last ... M_start, row = output token; scores are its last row.
template <Real Scalar, MapSource<Scalar> Source>
[[nodiscard]] Attribution<Scalar> rollout_map(Index layers, Index tokens, const Source& map_of,
                                              const RolloutOptions<Scalar>& options = {}) {
  detail::check_rollout(options, layers);
  Attribution<Scalar> result = detail::begin_rollout<Scalar>(tokens - 1, tokens);
  for (Index layer = options.start_layer; layer < layers; ++layer) {
    Matrix<Scalar> map = map_of(layer);
    detail::check_map("rollout", layer, map, tokens);
    detail::discard_smallest(map, options.discard_ratio);
    const RowVector<Scalar> sums = map.rowwise().sum().transpose();
    map.diagonal().array() += options.residual_weight;
    map.array().colwise() *= detail::row_factors(
                                 sums, options, layer, [](Index) { return true; }, result.zero_rows)
                                 .transpose()
                                 .array();
    if (layer == options.start_layer)
      result.map = std::move(map);
    else
      result.map = (map * result.map).eval();
  }
  detail::check_finite("rollout", "the result", result.map);
  result.scores = result.map.row(tokens - 1);
  return result;
}

/// The same from a list of maps.
template <Real Scalar>
[[nodiscard]] Attribution<Scalar> rollout_map(const std::vector<Matrix<Scalar>>& maps, const RolloutOptions<Scalar>& options = {}) {
  const auto map_of = [&](Index layer) -> const Matrix<Scalar>& { return maps[static_cast<std::size_t>(layer)]; };
  return rollout_map<Scalar>(static_cast<Index>(maps.size()), maps.empty() ? 0 : maps.front().rows(), map_of, options);
}

/// Row `position` of the rollout of the signed means over channels, without forming any matrix: in linear time and memory in tokens.
/// row * mean_e A_e is the mean over channels of A_e^T row (one transposed application), the maps' row sums are the mean of A_e 1 (one
/// application). Same numbers as `rollout` of the reduced maps (ReductionKind::mean). Fails on a discard ratio, which needs the map.
template <Real Scalar, AttentionSource<Scalar> Source>
[[nodiscard]] Attribution<Scalar> rollout_matrix_free(Index layers, const Source& attention_of, Index position,
                                                      const RolloutOptions<Scalar>& options = {},
                                                      const Executor& executor = serial_executor()) {
  detail::check_rollout(options, layers);
  if (options.discard_ratio != Scalar(0))
    detail::raise(ErrorKind::value, "rollout: a discard ratio needs the maps' entries; use rollout, not rollout_matrix_free");
  Attribution<Scalar> result;
  for (Index layer = layers - 1; layer >= options.start_layer; --layer) {
    const ImplicitAttention<Scalar> attention = attention_of(layer);
    const Index tokens = attention.tokens(), channels = attention.channels();
    if (layer == layers - 1) result = detail::begin_rollout<Scalar>(position, tokens);
    if (tokens != result.scores.size())
      detail::raise(ErrorKind::shape, "rollout: layer ", layer, " has ", tokens, " tokens, expected ", result.scores.size(),
                    " as the last layer has");
    RowVector<Scalar> sums = RowVector<Scalar>::Zero(tokens);
    if (options.normalize_rows)
      sums = attention.apply(Matrix<Scalar>::Ones(tokens, channels).eval(), executor).rowwise().mean().transpose();
    detail::check_finite("rollout", detail::message("the attention of layer ", layer), sums);
    const auto used = [&](Index token) { return result.scores[token] != Scalar(0); };
    const RowVector<Scalar> scaled = result.scores.cwiseProduct(detail::row_factors(sums, options, layer, used, result.zero_rows));
    const Matrix<Scalar> spread = scaled.transpose().replicate(1, channels);
    result.scores = options.residual_weight * scaled + attention.apply_transpose(spread, executor).rowwise().mean().transpose();
  }
  detail::end_rollout(result);
  return result;
}

/// A map whose every row is `row` (tokens). This is what the code published with arXiv 2403.01590 and 2405.16504 rolls out: it computes
/// the attention of one query and uses it for all. It is no rollout of the model's maps and serves comparison with published numbers.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> map_of_one_row_repeated(const RowVector<Scalar>& row) {
  return row.replicate(row.size(), 1);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
