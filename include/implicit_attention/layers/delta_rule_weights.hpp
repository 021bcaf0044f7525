// The weights of the layers with a delta rule, and how public checkpoints store them.
#pragma once

#include <string_view>

#include <implicit_attention/layers/decay_rate.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {
/// Numbers stored as (H, 1) or (1, 1, H, 1), as one row.
template <Real S>
[[nodiscard]] Array<S> as_row(const Array<S>& numbers) {
  return numbers.cols() != 1 || numbers.rows() <= 1 ? numbers : Array<S>(Matrix<S>(numbers.matrix().transpose()));
}

/// Every number of a row repeated `times` times: (1, n) to (1, n * times).
template <Real S>
[[nodiscard]] Array<S> repeated(const Array<S>& row, Index times) {
  Matrix<S> out(1, row.size() * times);
  for (Index column = 0; column < out.cols(); ++column) out(0, column) = row(0, column / times);
  return out;
}
}  // namespace detail

/// What the layers with a delta rule have in common (layers/delta_rule.hpp has the sizes).
template <Real Scalar>
struct DeltaRuleWeights {
  Array<Scalar> q_proj_weight, k_proj_weight;      ///< (H K, D)
  Array<Scalar> v_proj_weight;                     ///< (E, D)
  Array<Scalar> b_proj_weight;                     ///< (Hv, D); absent: beta = 1
  Array<Scalar> q_conv1d_weight, k_conv1d_weight;  ///< (H K, W); all three or none
  Array<Scalar> v_conv1d_weight;                   ///< (E, W)
  Array<Scalar> q_conv1d_bias, k_conv1d_bias;      ///< (H K), may be absent
  Array<Scalar> v_conv1d_bias;                     ///< (E), may be absent
  Array<Scalar> A_log;                             ///< (Hv); absent: no decay
  Array<Scalar> dt_bias;                           ///< (Hv), or (Hv K) with a decay a key channel
  Array<Scalar> o_norm_weight;                     ///< (V)
  Array<Scalar> o_proj_weight;                     ///< (D, E)

  /// q, k and v convolutions: one tensor each, or one for all three, in that order. Absent ones stay empty. Needs the projections.
  void read_convolutions(const PrefixedTensors<Scalar>& tensors);
};

template <Real Scalar>
void DeltaRuleWeights<Scalar>::read_convolutions(const PrefixedTensors<Scalar>& tensors) {
  if (!tensors.has("conv1d.weight")) {
    q_conv1d_weight = tensors.optional("q_conv1d.weight");
    k_conv1d_weight = tensors.optional("k_conv1d.weight");
    v_conv1d_weight = tensors.optional("v_conv1d.weight");
    q_conv1d_bias = tensors.optional("q_conv1d.bias", 1);
    k_conv1d_bias = tensors.optional("k_conv1d.bias", 1);
    v_conv1d_bias = tensors.optional("v_conv1d.bias", 1);
    return;
  }
  const Index keys = k_proj_weight.rows(), rows = 2 * keys + v_proj_weight.rows();
  const Array<Scalar> weight = tensors.required("conv1d.weight"), bias = tensors.optional("conv1d.bias", 1);
  check_shape(tensors.source().where(), tensors.name_in_file("conv1d.weight"), weight, rows, weight.cols(),
              "(rows of q, k and v, convolution width)");
  q_conv1d_weight = weight.middle_rows(0, keys);
  k_conv1d_weight = weight.middle_rows(keys, keys);
  v_conv1d_weight = weight.middle_rows(2 * keys, rows - 2 * keys);
  detail::check_bias(tensors.source().where(), tensors.name_in_file("conv1d.bias"), bias, rows, "rows of q, k and v");
  q_conv1d_bias = bias.middle_columns(0, keys);
  k_conv1d_bias = bias.middle_columns(keys, keys);
  v_conv1d_bias = bias.middle_columns(2 * keys, rows - 2 * keys);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
