// Reverse mode of Griffin's recurrent block (layers/griffin.hpp), gates and decays included.
#pragma once

#include <string_view>
#include <type_traits>
#include <vector>

#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <reference/layer_gradient.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real S>
[[nodiscard]] const Array<S>& output_projection(const Griffin<S>& layer) {
  return layer.weights().linear_out_weight;
}

namespace detail {
/// grad_c += the transpose of a block-diagonal gate: out[h, q] = sum_p c[h, p] W[h, p, q].
template <Real S>
void add_block_diagonal_gradient(const Matrix<S>& grad, const Array<S>& weight, Matrix<S>& grad_c) {
  const Index block = weight.cols();
  for (Index first = 0; first < grad.cols(); first += block)
    grad_c.middleCols(first, block).noalias() += grad.middleCols(first, block) * weight.matrix().middleRows(first, block).transpose();
}

/// d gelu(x) / dx in its tanh form, elementwise.
template <Real S>
[[nodiscard]] Matrix<S> gelu_derivatives(ConstView<S> x) {
  return x.unaryExpr([](S value) { return gelu_derivative(value); });
}
}  // namespace detail

/// From d y (L, E) to the gradients with respect to y, x and u. Needs gate_input, input_gate, recurrent_gate, log_a, normalizer, starts,
/// and c or x, of the activations, and the state carried in.
///
/// The factor sqrt(1 - a^2) is differentiated as it stands, with no bound on its slope (the Hugging Face port bounds it by 1000, which
/// tells only where 1 - a^2 < 2.5e-7). The slope has no limit as a goes to 1, but that times the recurrent gate's own has: it is 0.
template <Real S>
[[nodiscard]] LayerGradients<S> backward_from_y(const Griffin<S>& layer, const typename Griffin<S>::Activations& act,
                                                ConstView<std::type_identity_t<S>> grad_y, const Executor& executor = serial_executor()) {
  const typename Griffin<S>::Weights& w = layer.weights();
  const Index tokens = grad_y.rows(), channels = layer.channels();
  const auto check = [&](const char* name, const Array<S>& array) {
    detail::check_activation("Griffin gradient", name, array, tokens, channels, "(tokens, channels)");
  };
  check_shape("Griffin gradient", "grad_y", grad_y, act.log_a.rows(), channels, "(tokens, channels)");
  check("gate_input", act.gate_input);
  check("input_gate", act.input_gate);
  check("recurrent_gate", act.recurrent_gate);
  check("log_a", act.log_a);
  check("normalizer", act.normalizer);
  const std::vector<Index> convolution_starts = layer.options().convolution_within_documents ? act.starts : std::vector<Index>{};
  const Array<S> c = detail::convolved("Griffin gradient", act.c, act.x, w.conv_1d_weight, w.conv_1d_bias, act.initial.convolution_tail,
                                       convolution_starts, tokens, executor);

  // y = gate R c with the gate as the scale of the queries, i m as that of the keys.
  DiagonalRecurrence<S> recurrence;
  recurrence.tokens = tokens;
  recurrence.channels = channels;
  recurrence.step = act.log_a;
  recurrence.query_scale = Matrix<S>(act.gate_input.matrix().cwiseProduct(gelu_scale(act.gate_input.matrix())));
  recurrence.key_scale = Matrix<S>(act.input_gate.matrix().cwiseProduct(act.normalizer.matrix()));
  recurrence.starts = act.starts;
  const ScanGradient<S> scan = scan_gradient<S>(recurrence, *c, Array<S>::view(act.initial.recurrent), grad_y, executor);

  const ConstView<S> input_gate = *act.input_gate, recurrent_gate = *act.recurrent_gate, normalizer = *act.normalizer, log_a = *act.log_a;
  const Matrix<S> grad_input_gate =
      (scan.key_scale.array() * normalizer.array() * input_gate.array() * (S(1) - input_gate.array())).matrix();
  // d m / d log a = -a^2 / m (eq. 4), and d log a / d (recurrent gate before its sigmoid) = log a (1 - r). Joined, log a / m goes to 0
  // with m.
  Matrix<S> slope = (normalizer.array() > S(0)).select(log_a.array() / normalizer.array(), S(0)).matrix();
  slope.array() *= (S(2) * log_a.array()).exp();
  Matrix<S> grad_recurrent_gate =
      ((scan.step.array() * log_a.array() - scan.key_scale.array() * input_gate.array() * slope.array()) * (S(1) - recurrent_gate.array()))
          .matrix();
  for (const Index start : act.starts) grad_recurrent_gate.row(start).setZero();  // there a = 0 and m = 1, whatever the gate says

  Matrix<S> grad_c = scan.input;
  detail::add_block_diagonal_gradient(grad_input_gate, w.input_gate_weight, grad_c);
  detail::add_block_diagonal_gradient(grad_recurrent_gate, w.recurrent_gate_weight, grad_c);

  LayerGradients<S> gradients;
  gradients.grad_y = grad_y;
  gradients.grad_x = detail::convolution_gradient(w.conv_1d_weight, convolution_starts, grad_c, executor);
  const Matrix<S> grad_gate_input = scan.query_scale.cwiseProduct(detail::gelu_derivatives<S>(*act.gate_input));
  gradients.grad_u = Matrix<S>(gradients.grad_x * *w.linear_x_weight);
  gradients.grad_u += Matrix<S>(grad_gate_input * *w.linear_y_weight);
  return gradients;
}

IMPLICIT_ATTENTION_NAMESPACE_END
