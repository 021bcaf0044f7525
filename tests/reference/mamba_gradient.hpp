// Reverse mode of Mamba's layer (layers/mamba.hpp), step sizes, input and output matrices included.
#pragma once

#include <string_view>
#include <type_traits>

#include <implicit_attention/core/numerics.hpp>
#include <reference/layer_gradient.hpp>
#include <implicit_attention/layers/mamba.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
[[nodiscard]] const Array<S>& output_projection(const Mamba<S>& layer) {
  return layer.weights().out_proj_weight;
}

/// From d y (L, E) to the gradients with respect to y, x and u. Needs z, dt, B, C, and c or x, of the activations, and the state
/// carried in.
template <Real S>
[[nodiscard]] LayerGradients<S> backward_from_y(const Mamba<S>& layer, const typename Mamba<S>::Activations& act,
                                                ConstView<std::type_identity_t<S>> grad_y, const Executor& executor = serial_executor()) {
  const typename Mamba<S>::Weights& w = layer.weights();
  const Index tokens = grad_y.rows(), channels = layer.channels(), state = layer.state(), rank = w.dt_proj_weight.cols();
  const auto check = [&](const char* name, const Array<S>& array, Index columns, std::string_view meaning) {
    detail::check_activation("Mamba gradient", name, array, tokens, columns, meaning);
  };
  check_shape("Mamba gradient", "grad_y", grad_y, act.dt.rows(), channels, "(tokens, channels)");
  check("z", act.z, channels, "(tokens, channels)");
  check("dt", act.dt, channels, "(tokens, channels)");
  check("B", act.B, state, "(tokens, state)");
  check("C", act.C, state, "(tokens, state)");
  const Array<S> c =
      detail::convolved("Mamba gradient", act.c, act.x, w.conv1d_weight, w.conv1d_bias, act.initial.convolution_tail, {}, tokens, executor);
  const Matrix<S> a = silu(c.matrix());

  // y = gate (R + D) a, with the gate as the scale of the queries: what it is multiplied with need not be kept, nor divided out of y.
  DiagonalRecurrence<S> recurrence;
  recurrence.tokens = tokens;
  recurrence.channels = channels;
  recurrence.state = state;
  recurrence.step = act.dt;
  recurrence.rate = layer.rate();
  recurrence.query = act.C;
  recurrence.key = act.B;
  recurrence.query_scale = silu(act.z.matrix());
  recurrence.key_scale = act.dt;
  const ScanGradient<S> scan = scan_gradient<S>(recurrence, a, Array<S>::view(act.initial.recurrent), grad_y, executor);

  const RowVector<S> skip = w.D.matrix().row(0);
  Matrix<S> grad_gate = scan.query_scale;
  grad_gate.array() += (grad_y.array() * a.array()).rowwise() * skip.array();
  Matrix<S> grad_a = scan.input;
  grad_a.array() += (grad_y.array() * recurrence.query_scale.matrix().array()).rowwise() * skip.array();

  // [d | B | C] = a x_proj^T; dt enters as the decay's step and as the scale of what is written. softplus' = 1 - exp(-dt).
  Matrix<S> grad_selected(tokens, rank + 2 * state);
  const Matrix<S> grad_dt_input = ((scan.step + scan.key_scale).array() * -(-act.dt.matrix().array()).expm1()).matrix();
  grad_selected.leftCols(rank) = Matrix<S>(grad_dt_input * *w.dt_proj_weight);
  grad_selected.middleCols(rank, state) = scan.key;
  grad_selected.rightCols(state) = scan.query;
  grad_a += Matrix<S>(grad_selected * *w.x_proj_weight);

  grad_a.array() *= detail::silu_derivative<S>(*c).array();  // now the gradient with respect to c
  LayerGradients<S> gradients;
  gradients.grad_y = grad_y;
  gradients.grad_x = detail::convolution_gradient(w.conv1d_weight, {}, grad_a, executor);
  grad_gate.array() *= detail::silu_derivative<S>(*act.z).array();  // now the gradient with respect to z
  gradients.grad_u = Matrix<S>(gradients.grad_x * w.in_proj_weight.matrix().topRows(channels));
  gradients.grad_u += Matrix<S>(grad_gate * w.in_proj_weight.matrix().bottomRows(channels));
  return gradients;
}

IMPLICIT_ATTENTION_NAMESPACE_END
