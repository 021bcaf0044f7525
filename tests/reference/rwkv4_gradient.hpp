// Reverse mode of RWKV-4's time mixing (layers/rwkv4.hpp), for keys of any size.
#pragma once

#include <string_view>
#include <type_traits>

#include <implicit_attention/core/numerics.hpp>
#include <reference/layer_gradient.hpp>
#include <implicit_attention/layers/rwkv4.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
[[nodiscard]] const Array<S>& output_projection(const Rwkv4<S>& layer) {
  return layer.weights().output_weight;
}

namespace detail {
/// grad_u += the transpose of mix_m followed by a projection: m g_t W + (1 - m) g_{t+1} W. The input before the first token is a constant.
template <Real S>
void add_mix_gradient(const Matrix<S>& grad, const Array<S>& weight, const Array<S>& mix, Matrix<S>& grad_u) {
  const Matrix<S> mixed = grad * *weight;
  const RowVector<S> now = mix.matrix().row(0);
  const RowVector<S> before = (S(1) - now.array()).matrix();
  const Index earlier = mixed.rows() - 1;
  grad_u.array() += mixed.array().rowwise() * now.array();
  grad_u.topRows(earlier).array() += mixed.bottomRows(earlier).array().rowwise() * before.array();
}
}  // namespace detail

/// From d y (L, E) to the gradients with respect to y, x and u. Needs x, key and receptance of the activations, and the state carried in.
///
/// The weights of a row sum to 1, so with o_i = sum_j P[i,j] v_j (eq. 16 before its gate) and g = gate * d y,
///     d k_j = sum_i g_i P[i,j] (v_j - o_i) = v_j (P^T g)_j - (P^T (g o))_j:
/// two transposed applications of the normalised weights, in which no exponential is ever out of scale.
template <Real S>
[[nodiscard]] LayerGradients<S> backward_from_y(const Rwkv4<S>& layer, const typename Rwkv4<S>::Activations& act,
                                                ConstView<std::type_identity_t<S>> grad_y, const Executor& executor = serial_executor()) {
  const typename Rwkv4<S>::Weights& w = layer.weights();
  const Index tokens = grad_y.rows(), channels = layer.channels();
  const auto check = [&](const char* name, const Array<S>& array) {
    detail::check_activation("Rwkv4 gradient", name, array, tokens, channels, "(tokens, channels)");
  };
  check_shape("Rwkv4 gradient", "grad_y", grad_y, act.key.rows(), channels, "(tokens, channels)");
  check("x", act.x);
  check("key", act.key);
  check("receptance", act.receptance);

  const ImplicitAttention<S> weights(layer.lower(act, Terms(Term::recurrence) | Term::normalization));
  Matrix<S> output = weights.apply(*act.x, executor);  // o; not y / gate, since a gate may be zero
  if (act.initial.numerator.size() != 0) output += weights.carry(executor);

  const Matrix<S> gate = sigmoid(act.receptance.matrix());
  Matrix<S> weighted = grad_y.cwiseProduct(gate);
  LayerGradients<S> gradients;
  gradients.grad_y = grad_y;
  gradients.grad_x = weights.apply_transpose(weighted, executor);
  const Matrix<S> grad_receptance = (weighted.array() * output.array() * (S(1) - gate.array())).matrix();
  weighted.array() *= output.array();
  const Matrix<S> grad_key = act.x.matrix().cwiseProduct(gradients.grad_x) - weights.apply_transpose(weighted, executor);

  gradients.grad_u = Matrix<S>::Zero(tokens, layer.width());
  detail::add_mix_gradient(gradients.grad_x, w.value_weight, w.time_mix_value, gradients.grad_u);
  detail::add_mix_gradient(grad_key, w.key_weight, w.time_mix_key, gradients.grad_u);
  detail::add_mix_gradient(grad_receptance, w.receptance_weight, w.time_mix_receptance, gradients.grad_u);
  return gradients;
}

IMPLICIT_ATTENTION_NAMESPACE_END
