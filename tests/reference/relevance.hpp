// Relevance through the operator: the rules of MambaLRP (Rezaei Jafari et al. 2024, arXiv 2406.07592), block by block.
//
// What is explained, f, is walked back as a gradient g of the network in which every data-dependent scale is a constant. Such a network
// is linear, but for products of two branches, so that the relevance x * g of its parts and the share of its biases, bias * g, add up
// to f: it is conserved. The rules:
//   - attention: y = A x + b, A constant (convolution, activation, decays, queries, keys, normalization are in it): g_x = A^T g_y.
//   - a gate that is itself homogeneous in its input, silu(z) = sigmoid(z) z or gelu(z) = Phi(z) z: half to each factor of its product.
//   - a sigmoid gate, a norm's statistics, a soft cap (tanh(x)/x), softmax weights: scales; they are constants and take none.
// Every step is linear in tokens, in time and in memory.
#pragma once

#include <implicit_attention/attribution/result.hpp>
#include <implicit_attention/operator/implicit_attention.hpp>

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
[[nodiscard]] RelevanceStep<Scalar> relevance_through_linear(ConstView<Scalar> g, const Array<Scalar>& weight,
                                                             const Array<Scalar>& bias = {}) {
  if (g.cols() != weight.rows())
    detail::raise(ErrorKind::shape, "relevance: the gradient is ", shape_text({g.rows(), g.cols()}), ", expected (tokens, ", weight.rows(),
                  ")");
  RelevanceStep<Scalar> step;
  step.grad = g * weight.matrix();
  if (!bias.empty()) step.bias_share = g.colwise().sum().dot(bias.matrix().row(0));
  return step;
}

/// y = A x + b + carry: g_x = A^T g_y, A as it is.
template <Real Scalar>
[[nodiscard]] RelevanceStep<Scalar> relevance_through_attention(const ImplicitAttention<Scalar>& attention, ConstView<Scalar> grad_y,
                                                                const Executor& executor = serial_executor()) {
  RelevanceStep<Scalar> step;
  step.grad = attention.apply_transpose(grad_y, executor);
  step.bias_share = (attention.bias(executor) + attention.carry(executor)).cwiseProduct(grad_y).sum();
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
                                                                       ConstView<Scalar> z, ConstView<Scalar> scale,
                                                                       ConstView<Scalar> grad_y,
                                                                       const Executor& executor = serial_executor()) {
  check_shape("relevance", "z", z, ungated.tokens(), ungated.channels(), "(tokens, channels)");
  check_shape("relevance", "scale", scale, ungated.tokens(), ungated.channels(), "(tokens, channels)");
  check_shape("relevance", "grad_y", grad_y, ungated.tokens(), ungated.channels(), "(tokens, channels)");
  const Matrix<Scalar> half = Scalar(0.5) * grad_y.cwiseProduct(scale);
  const Matrix<Scalar> through = half.cwiseProduct(z);
  const Matrix<Scalar> affine = ungated.bias(executor) + ungated.carry(executor);
  GatedRelevance<Scalar> step;
  step.grad_x = ungated.apply_transpose(through, executor);
  step.grad_z = half.cwiseProduct(ungated.apply(x, executor) + affine);  // not y / gate: a gate may be zero
  step.bias_share = affine.cwiseProduct(through).sum();
  return step;
}

/// The relevance of tokens: scores[j] = sum over width of input[j] * grad[j]. Positive speaks for what is explained, negative against.
template <Real Scalar>
[[nodiscard]] RowVector<Scalar> token_relevance(ConstView<Scalar> input, ConstView<Scalar> grad) {
  check_shape("relevance", "grad", grad, input.rows(), input.cols(), "(tokens, width), as the input");
  return input.cwiseProduct(grad).rowwise().sum().transpose();
}

IMPLICIT_ATTENTION_NAMESPACE_END
