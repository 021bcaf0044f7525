// A second source for relevance: the rules of MambaLRP (Rezaei Jafari et al. 2024, arXiv 2406.07592), block by block, from the matrices of
// a layer that has run.
//
// What is explained, f, is walked back as a gradient g of the network in which every data-dependent scale is a constant. Such a network
// is linear, but for products of two branches, so that the relevance x * g of its parts and the share of its biases, bias * g, add up
// to f: it is conserved. The rules:
//   - attention: y = A x + b, A constant (convolution, activation, decays, queries, keys, normalization are in it): g_x = A^T g_y.
//   - a gate that is itself homogeneous in its input, silu(z) = sigmoid(z) z or gelu(z) = Phi(z) z: half to each factor of its product.
//   - a sigmoid gate, a norm's statistics, a soft cap (tanh(x)/x), softmax weights: scales; they are constants and take none.
#pragma once

#include <utility>

#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/layers/griffin.hpp>
#include <implicit_attention/layers/mamba.hpp>
#include <implicit_attention/layers/mamba2.hpp>
#include <implicit_attention/layers/rwkv4.hpp>
#include <implicit_attention/layers/softmax_attention.hpp>
#include <implicit_attention/models/feed_forward.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The walk behind one part: the gradient with respect to its input, scales held constant, and what its biases (and a state that was
/// carried in, which is a constant, too) take of what is explained.
template <Real Scalar>
struct RelevanceStep {
  Matrix<Scalar> grad;    ///< (tokens, columns of the input)
  Scalar bias_share = 0;  ///< sum of bias * gradient
};

/// out = input weight^T + bias: g_input = g weight. `g` is (tokens, rows of weight); `bias` may be empty.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_through_linear(const Matrix<Scalar>& g, const Array<Scalar>& weight,
                                                             const Array<Scalar>& bias = {}) {
  RelevanceStep<Scalar> step;
  step.grad = g * weight.matrix();
  if (!bias.empty()) step.bias_share = g.colwise().sum().dot(bias.matrix().row(0));
  return step;
}

/// u = weight (r - mean(r)) scale + bias, or without mean and bias; the scale is r's.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_through_norm(const Norm<Scalar>& norm, ConstView<Scalar> r, const Matrix<Scalar>& g) {
  const Matrix<Scalar> scale = norm.statistics(r).scale;
  RelevanceStep<Scalar> step;
  step.grad = g;
  for (Index token = 0; token < g.rows(); ++token) {
    step.grad.row(token).array() *= norm.weight().array() * scale(token, 0);
    if (norm.centred()) step.grad.row(token).array() -= step.grad.row(token).mean();
    if (norm.bias().size() != 0) step.bias_share += norm.bias().dot(g.row(token));
  }
  return step;
}

/// mix_m(u)_t = m u_t + (1 - m) u_{t-1}; `before` is the row before the first, a constant, or empty.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_through_token_mix(const Array<Scalar>& m, const Matrix<Scalar>& before,
                                                                const Matrix<Scalar>& g) {
  RelevanceStep<Scalar> step;
  step.grad = g;
  for (Index token = 0; token < g.rows(); ++token)
    for (Index d = 0; d < g.cols(); ++d) {
      step.grad(token, d) = m(0, d) * g(token, d);
      if (token + 1 < g.rows()) step.grad(token, d) += (1 - m(0, d)) * g(token + 1, d);
      if (token == 0 && before.size() != 0) step.bias_share += before(0, d) * (1 - m(0, d)) * g(0, d);
    }
  return step;
}

/// y = A x + b + carry: g_x = A^T g_y, A as it is.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_through_attention(const ImplicitAttention<Scalar>& attention, const Matrix<Scalar>& grad_y) {
  const AttentionMatrix<Scalar> all = attention.materialize();
  RelevanceStep<Scalar> step;
  step.grad = grad_y;
  for (Index channel = 0; channel < all.channels(); ++channel)
    step.grad.col(channel) = Matrix<Scalar>(all.channel(channel)).transpose() * grad_y.col(channel);
  step.bias_share = (attention.bias() + attention.carry()).cwiseProduct(grad_y).sum();
  return step;
}

/// The walk behind a gated layer: with respect to x and to the gate's input z.
template <Real Scalar>
struct GatedRelevance {
  Matrix<Scalar> grad_x, grad_z;  ///< (tokens, channels)
  Scalar bias_share = 0;
};

/// y = scale(z) z (A x + b + carry), where the gate scale(z) z is homogeneous in z but for its scale (sigmoid for SiLU, Phi for GELU):
/// half of the relevance goes through each factor. `ungated` is the attention without its gate, `scale` the numbers scale(z).
template <Real Scalar>
[[nodiscard]] GatedRelevance<Scalar> relevance_through_gated_attention(const ImplicitAttention<Scalar>& ungated, ConstView<Scalar> x,
                                                                       ConstView<Scalar> z, const Matrix<Scalar>& scale,
                                                                       const Matrix<Scalar>& grad_y) {
  const Matrix<Scalar> half = Scalar(0.5) * grad_y.cwiseProduct(scale);
  RelevanceStep<Scalar> through = relevance_through_attention<Scalar>(ungated, half.cwiseProduct(z));
  GatedRelevance<Scalar> step;
  step.grad_x = std::move(through.grad);
  step.grad_z = half.cwiseProduct(ungated.apply(x) + ungated.bias() + ungated.carry());  // not y / gate: a gate may be zero
  step.bias_share = through.bias_share;
  return step;
}

namespace detail {
/// Steps one behind the other: the first's bias share is added to that of the second.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> after(const RelevanceStep<Scalar>& first, RelevanceStep<Scalar> second) {
  second.bias_share += first.bias_share;
  return second;
}
/// Two branches of one input.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> both(const RelevanceStep<Scalar>& a, const RelevanceStep<Scalar>& b) {
  return {a.grad + b.grad, a.bias_share + b.bias_share};
}
}  // namespace detail

// Whole layers: from the gradient g with respect to a layer's output to that with respect to its input u, (tokens, width).

template <Real S>
[[nodiscard]] RelevanceStep<S> relevance_through(const Mamba<S>& layer, const typename Mamba<S>::Activations& act, const Matrix<S>& g) {
  const typename Mamba<S>::Weights& w = layer.weights();
  const Index E = layer.channels();
  const auto bias = [&](Index first) { return w.in_proj_bias.empty() ? Array<S>() : w.in_proj_bias.middle_columns(first, E); };
  const RelevanceStep<S> y = relevance_through_linear<S>(g, w.out_proj_weight, w.out_proj_bias);
  const GatedRelevance<S> halves = relevance_through_gated_attention<S>(layer.implicit_attention(act, Terms::all().without(Term::gate)),
                                                                        *act.x, *act.z, sigmoid(act.z.matrix()), y.grad);
  RelevanceStep<S> u = detail::both(relevance_through_linear<S>(halves.grad_x, w.in_proj_weight.middle_rows(0, E), bias(0)),
                                    relevance_through_linear<S>(halves.grad_z, w.in_proj_weight.middle_rows(E, E), bias(E)));
  u.bias_share += halves.bias_share;
  return detail::after(y, std::move(u));
}

/// A norm behind the gate is a scale of the attention, too.
template <Real S>
[[nodiscard]] RelevanceStep<S> relevance_through(const Mamba2<S>& layer, const typename Mamba2<S>::Activations& act, const Matrix<S>& g) {
  const typename Mamba2<S>::Weights& w = layer.weights();
  const Index E = layer.channels();
  const auto bias = [&](Index first) { return w.in_proj_bias.empty() ? Array<S>() : w.in_proj_bias.middle_columns(first, E); };
  const RelevanceStep<S> y = relevance_through_linear<S>(g, w.out_proj_weight, w.out_proj_bias);
  const GatedRelevance<S> halves = relevance_through_gated_attention<S>(layer.implicit_attention(act, Terms::all().without(Term::gate)),
                                                                        *act.x, *act.z, sigmoid(act.z.matrix()), y.grad);
  RelevanceStep<S> u = detail::both(relevance_through_linear<S>(halves.grad_z, w.in_proj_weight.middle_rows(0, E), bias(0)),
                                    relevance_through_linear<S>(halves.grad_x, w.in_proj_weight.middle_rows(E, E), bias(E)));
  u.bias_share += halves.bias_share;
  return detail::after(y, std::move(u));
}

template <Real S>
[[nodiscard]] RelevanceStep<S> relevance_through(const Griffin<S>& layer, const typename Griffin<S>::Activations& act, const Matrix<S>& g) {
  const typename Griffin<S>::Weights& w = layer.weights();
  const RelevanceStep<S> y = relevance_through_linear<S>(g, w.linear_out_weight, w.linear_out_bias);
  const GatedRelevance<S> halves =
      relevance_through_gated_attention<S>(layer.implicit_attention(act, Terms::all().without(Term::gate)), *act.x, *act.gate_input,
                                           gelu_scale(act.gate_input.matrix()), y.grad);
  RelevanceStep<S> u = detail::both(relevance_through_linear<S>(halves.grad_x, w.linear_x_weight, w.linear_x_bias),
                                    relevance_through_linear<S>(halves.grad_z, w.linear_y_weight, w.linear_y_bias));
  u.bias_share += halves.bias_share;
  return detail::after(y, std::move(u));
}

template <Real S>
[[nodiscard]] RelevanceStep<S> relevance_through(const Rwkv4<S>& layer, const typename Rwkv4<S>::Activations& act, const Matrix<S>& g) {
  const typename Rwkv4<S>::Weights& w = layer.weights();
  const RelevanceStep<S> y = relevance_through_linear<S>(g, w.output_weight);
  const RelevanceStep<S> x = detail::after(y, relevance_through_attention<S>(layer.implicit_attention(act), y.grad));
  const RelevanceStep<S> mixed = detail::after(x, relevance_through_linear<S>(x.grad, w.value_weight));
  return detail::after(mixed, relevance_through_token_mix<S>(w.time_mix_value, act.initial.shifted, mixed.grad));
}

/// One key head: its values are x of every head.
template <Real S>
[[nodiscard]] RelevanceStep<S> relevance_through(const SoftmaxAttention<S>& layer, const typename SoftmaxAttention<S>::Activations& act,
                                                 const Matrix<S>& g) {
  const typename SoftmaxAttention<S>::Weights& w = layer.weights();
  const RelevanceStep<S> y = relevance_through_linear<S>(g, w.o_proj_weight, w.o_proj_bias);
  const RelevanceStep<S> x = detail::after(y, relevance_through_attention<S>(layer.implicit_attention(act), y.grad));
  Matrix<S> values = Matrix<S>::Zero(g.rows(), w.v_proj_weight.rows());
  for (Index first = 0; first < x.grad.cols(); first += values.cols()) values += x.grad.middleCols(first, values.cols());
  return detail::after(x, relevance_through_linear<S>(values, w.v_proj_weight, w.v_proj_bias));
}

template <Real S>
[[nodiscard]] RelevanceStep<S> relevance_through(const GatedFeedForward<S>& part, const Matrix<S>& u, const Matrix<S>& g) {
  const typename GatedFeedForward<S>::Weights& w = part.weights();
  const auto linear_of = [&](const Array<S>& weight, const Array<S>& bias) {
    Matrix<S> out = u * weight.matrix().transpose();
    if (!bias.empty()) out.rowwise() += bias.matrix().row(0);
    return out;
  };
  const Matrix<S> z = linear_of(w.gate_proj_weight, w.gate_proj_bias), up = linear_of(w.up_proj_weight, w.up_proj_bias);
  const RelevanceStep<S> down = relevance_through_linear<S>(g, w.down_proj_weight, w.down_proj_bias);
  const Matrix<S> half = S(0.5) * down.grad.cwiseProduct(gelu_scale(z));
  return detail::after(down, detail::both(relevance_through_linear<S>(half.cwiseProduct(up), w.gate_proj_weight, w.gate_proj_bias),
                                          relevance_through_linear<S>(half.cwiseProduct(z), w.up_proj_weight, w.up_proj_bias)));
}

/// max(k, 0)^2 is max(k, 0) k, the first factor a scale: half to each of two equal factors.
template <Real S>
[[nodiscard]] RelevanceStep<S> relevance_through(const ChannelMixing<S>& part, const Matrix<S>& u, const Matrix<S>& g) {
  const typename ChannelMixing<S>::Weights& w = part.weights();
  const auto projected = [&](const Array<S>& m, const Array<S>& weight) {
    Matrix<S> mixed = u;
    for (Index token = 0; token < u.rows(); ++token)
      for (Index d = 0; d < u.cols(); ++d) mixed(token, d) = m(0, d) * u(token, d) + (1 - m(0, d)) * (token > 0 ? u(token - 1, d) : S(0));
    return Matrix<S>(mixed * weight.matrix().transpose());
  };
  const Matrix<S> receptance = sigmoid(projected(w.time_mix_receptance, w.receptance_weight));
  const RelevanceStep<S> value = relevance_through_linear<S>(g.cwiseProduct(receptance), w.value_weight);
  const Matrix<S> open = projected(w.time_mix_key, w.key_weight).cwiseMax(S(0));
  const RelevanceStep<S> key = relevance_through_linear<S>(value.grad.cwiseProduct(open), w.key_weight);
  return relevance_through_token_mix<S>(w.time_mix_key, {}, key.grad);
}

IMPLICIT_ATTENTION_NAMESPACE_END
