// Reverse mode of local attention (layers/local_attention.hpp): softmax, rotation and shared key/value heads.
#pragma once

#include <cmath>
#include <string_view>
#include <type_traits>

#include <implicit_attention/layers/layer_gradient.hpp>
#include <implicit_attention/layers/local_attention.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
[[nodiscard]] const Array<S>& output_projection(const LocalAttention<S>& layer) {
  return layer.weights().o_proj_weight;
}

namespace detail {
/// (L, H P) to (L, K P): the sum over the query heads that share a key/value head, first to last.
template <Real S>
[[nodiscard]] Matrix<S> shared_sum(const LocalAttention<S>& layer, const Matrix<S>& per_head) {
  const Index size = layer.head_size();
  Matrix<S> sum = Matrix<S>::Zero(per_head.rows(), layer.key_heads() * size);
  for (Index head = 0; head < layer.heads(); ++head) sum.middleCols(layer.key_column(head), size) += per_head.middleCols(head * size, size);
  return sum;
}
}  // namespace detail

/// From d y (L, E) to the gradients with respect to y, x (the values, one for each query head: grad_x = A^T grad_y) and u. Needs x, query,
/// key and positions of the activations, and the keys and values carried in, which are constants. Time L * window, memory linear in L:
/// each row of weights is computed again.
template <Real S>
[[nodiscard]] LayerGradients<S> backward_from_y(const LocalAttention<S>& layer, const typename LocalAttention<S>::Activations& act,
                                                ConstView<std::type_identity_t<S>> grad_y, const Executor& executor = serial_executor()) {
  const typename LocalAttention<S>::Weights& w = layer.weights();
  const Index tokens = grad_y.rows(), channels = layer.channels(), size = layer.head_size();
  check_shape("LocalAttention gradient", "grad_y", grad_y, act.query.rows(), channels, "(tokens, channels)");
  detail::check_activation("LocalAttention gradient", "x", act.x, tokens, channels, "(tokens, channels)");
  detail::check_activation("LocalAttention gradient", "key", act.key, tokens, layer.key_heads() * size, "(tokens, key heads * head size)");
  if (static_cast<Index>(act.positions.size()) != tokens)
    raise(ErrorKind::shape, message("LocalAttention gradient: positions are (", static_cast<Index>(act.positions.size()), "), expected (",
                                    tokens, ") = (tokens)"));

  const S scale = S(1) / std::sqrt(static_cast<S>(size));
  Matrix<S> grad_query(tokens, channels), grad_key = Matrix<S>::Zero(tokens, channels);
  LayerGradients<S> gradients;
  gradients.grad_y = grad_y;
  gradients.grad_x = Matrix<S>::Zero(tokens, channels);
  executor(layer.heads(), [&](Index head) {
    const Index column = head * size, key_column = layer.key_column(head);
    RowVector<S> weights(layer.window() + 1), slopes(layer.window() + 1);
    for (Index token = 0; token < tokens; ++token) {
      const typename LocalAttention<S>::Reach reach = layer.softmax_row(act, head, token, weights.data());
      const RowVector<S> g = grad_y.row(token).segment(column, size), query = act.query.matrix().row(token).segment(column, size) * scale;
      // y = sum_j p_j v_j with p = softmax(s): d s_j = p_j (g . v_j - sum_j p_j g . v_j). What is carried in takes part in the sum.
      slopes.segment(reach.past, reach.own).noalias() = g * act.x.matrix().block(reach.first, column, reach.own, size).transpose();
      if (reach.past > 0)
        slopes.head(reach.past).noalias() =
            g * act.initial.value.block(act.initial.value.rows() - reach.past, key_column, reach.past, size).transpose();
      const Index seen = reach.past + reach.own;
      const S mean = slopes.head(seen).dot(weights.head(seen));
      slopes.head(seen).array() = weights.head(seen).array() * (slopes.head(seen).array() - mean);

      grad_query.row(token).segment(column, size).noalias() =
          slopes.segment(reach.past, reach.own) * act.key.matrix().block(reach.first, key_column, reach.own, size);
      if (reach.past > 0)
        grad_query.row(token).segment(column, size).noalias() +=
            slopes.head(reach.past) * act.initial.key.block(act.initial.key.rows() - reach.past, key_column, reach.past, size);
      grad_key.block(reach.first, column, reach.own, size).noalias() += slopes.segment(reach.past, reach.own).transpose() * query;
      gradients.grad_x.block(reach.first, column, reach.own, size).noalias() += weights.segment(reach.past, reach.own).transpose() * g;
    }
  });
  grad_query *= scale;
  Matrix<S> shared_key = detail::shared_sum(layer, grad_key);
  layer.rotate(grad_query, act.positions, -1);  // a rotation's transpose is the rotation back
  layer.rotate(shared_key, act.positions, -1);

  gradients.grad_u = detail::project_back<S>(grad_query, *w.q_proj_weight);
  gradients.grad_u += detail::project_back<S>(shared_key, *w.k_proj_weight);
  gradients.grad_u += detail::project_back<S>(detail::shared_sum(layer, gradients.grad_x), *w.v_proj_weight);
  return gradients;
}

IMPLICIT_ATTENTION_NAMESPACE_END
