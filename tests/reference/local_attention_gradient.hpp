// Reverse mode of local attention (layers/softmax_attention.hpp): softmax, rotation and shared key/value heads.
#pragma once

#include <cmath>
#include <string_view>
#include <type_traits>

#include <reference/layer_gradient.hpp>
#include <implicit_attention/layers/softmax_attention.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
[[nodiscard]] const Array<S>& output_projection(const SoftmaxAttention<S>& layer) {
  return layer.weights().o_proj_weight;
}

namespace detail {
/// (L, H P) to (L, K P): the sum over the query heads that share a key/value head, first to last.
template <Real S>
[[nodiscard]] Matrix<S> shared_sum(const SoftmaxAttention<S>& layer, const Matrix<S>& per_head) {
  const Index size = layer.head_size();
  Matrix<S> sum = Matrix<S>::Zero(per_head.rows(), layer.key_heads() * size);
  for (Index head = 0; head < layer.heads(); ++head) sum.middleCols(layer.key_column(head), size) += per_head.middleCols(head * size, size);
  return sum;
}
}  // namespace detail

template <Real S>
[[nodiscard]] Rotary rotary_of(const SoftmaxAttention<S>& layer) {
  Rotary rotary;
  rotary.head_size = layer.head_size();
  rotary.rotated = static_cast<Index>(layer.options().rotary_part * static_cast<double>(layer.head_size()));
  rotary.base = layer.options().rotary_base;
  return rotary;
}

/// From d y (L, E) to the gradients with respect to y, x (the values, one for each query head: grad_x = A^T grad_y) and u. Needs x, query,
/// key and positions of the activations, and the keys and values carried in, which are constants. Time L * window, memory linear in L:
/// each row of weights is computed again.
template <Real S>
[[nodiscard]] LayerGradients<S> backward_from_y(const SoftmaxAttention<S>& layer, const typename SoftmaxAttention<S>::Activations& act,
                                                ConstView<std::type_identity_t<S>> grad_y, const Executor& executor = serial_executor()) {
  const typename SoftmaxAttention<S>::Weights& w = layer.weights();
  const Index tokens = grad_y.rows(), channels = layer.channels(), size = layer.head_size();
  check_shape("LocalAttention gradient", "grad_y", grad_y, act.query.rows(), channels, "(tokens, channels)");
  detail::check_activation("LocalAttention gradient", "x", act.x, tokens, channels, "(tokens, channels)");
  detail::check_activation("LocalAttention gradient", "key", act.key, tokens, layer.key_heads() * size, "(tokens, key heads * head size)");
  if (static_cast<Index>(act.positions.size()) != tokens)
    detail::raise(ErrorKind::shape, "LocalAttention gradient: positions are (", static_cast<Index>(act.positions.size()), "), expected (",
                  tokens, ") = (tokens)");

  const S scale = S(1) / std::sqrt(static_cast<S>(size));
  const SoftmaxRecurrence<S> softmax = *layer.lower(act).recurrence.softmax();
  Matrix<S> grad_query = Matrix<S>::Zero(tokens, channels), grad_key = Matrix<S>::Zero(tokens, channels);
  LayerGradients<S> gradients;
  gradients.grad_y = grad_y;
  gradients.grad_x = Matrix<S>::Zero(tokens, channels);
  executor(layer.heads(), [&](Index head) {
    const Index column = head * size, key_column = layer.key_column(head);
    RowVector<S> past, own(tokens);
    for (Index token = 0; token < tokens; ++token) {
      detail::softmax_row(softmax, head, token, past, own.data());
      const Index first = softmax.first_visible(token), from = act.initial.key.rows() - past.size();
      // y = sum_j p_j v_j with p = softmax(s): d s_j = p_j (g . v_j - sum_j p_j g . v_j). What is carried in takes part in the sum.
      const auto along = [&](const auto& value) {
        S sum = 0;
        for (Index p = 0; p < size; ++p) sum += grad_y(token, column + p) * value(p);
        return sum;
      };
      const auto own_slope = [&](Index j) { return along([&](Index p) { return act.x(j, column + p); }); };
      const auto past_slope = [&](Index j) { return along([&](Index p) { return act.initial.value(from + j, key_column + p); }); };
      S mean = 0;
      for (Index j = first; j <= token; ++j) mean += own[j] * own_slope(j);
      for (Index j = 0; j < past.size(); ++j) mean += past[j] * past_slope(j);
      for (Index j = first; j <= token; ++j) {
        const S slope = own[j] * (own_slope(j) - mean);
        for (Index p = 0; p < size; ++p) {
          grad_query(token, column + p) += slope * act.key(j, key_column + p);
          grad_key(j, column + p) += slope * scale * act.query(token, column + p);
          gradients.grad_x(j, column + p) += own[j] * grad_y(token, column + p);
        }
      }
      for (Index j = 0; j < past.size(); ++j)
        for (Index p = 0; p < size; ++p)
          grad_query(token, column + p) += past[j] * (past_slope(j) - mean) * act.initial.key(from + j, key_column + p);
    }
  });
  grad_query *= scale;
  Matrix<S> shared_key = detail::shared_sum(layer, grad_key);
  rotate(grad_query, rotary_of(layer), act.positions, -1);  // a rotation's transpose is the rotation back
  rotate(shared_key, rotary_of(layer), act.positions, -1);

  gradients.grad_u = Matrix<S>(grad_query * *w.q_proj_weight);
  gradients.grad_u += Matrix<S>(shared_key * *w.k_proj_weight);
  gradients.grad_u += Matrix<S>(detail::shared_sum(layer, gradients.grad_x) * *w.v_proj_weight);
  return gradients;
}

IMPLICIT_ATTENTION_NAMESPACE_END
