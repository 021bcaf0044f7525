// A second source for the gradients of the first four layers: adjoints written by hand, from the activations of a run.
#pragma once

#include <concepts>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/kernels/scan_gradient.hpp>
#include <implicit_attention/layers/layer_gradient.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A layer descriptor that can be run in reverse. The two functions stand beside the layer and are found by its namespace.
template <class Layer>
concept DifferentiableLayer = LayerDescriptor<Layer> && requires(const Layer& layer, const typename Layer::Activations& activations,
                                                                 ConstView<typename Layer::Scalar> grad_y, const Executor& executor) {
  // from d y (tokens, channels) to all three gradients
  { backward_from_y(layer, activations, grad_y, executor) } -> std::same_as<LayerGradients<typename Layer::Scalar>>;
  // the weight of `out = y weight^T + bias`, (width, channels); empty if out is y
  { output_projection(layer) } -> std::convertible_to<const Array<typename Layer::Scalar>&>;
};

/// d y = d out * weight: the gradient behind the output projection, (tokens, channels).
template <DifferentiableLayer Layer>
[[nodiscard]] Matrix<typename Layer::Scalar> gradient_before_projection(const Layer& layer, ConstView<typename Layer::Scalar> grad_out) {
  const Array<typename Layer::Scalar> weight = output_projection(layer);  // shared or viewed, never copied
  if (weight.empty()) return grad_out;
  if (grad_out.cols() != weight.rows())
    detail::raise(ErrorKind::shape, "backward: grad_out is ", shape_text({grad_out.rows(), grad_out.cols()}), ", expected (tokens, ",
                  weight.rows(), ") = (tokens, width)");
  return Matrix<typename Layer::Scalar>(grad_out * *weight);
}

/// Exact reverse mode of a whole layer: from d out (tokens, width) to the gradients with respect to y, x and u. `activations` is what the
/// layer's run on this sequence gave; linear in tokens, in time and in memory, for layers with a linear recurrence.
template <DifferentiableLayer Layer>
[[nodiscard]] LayerGradients<typename Layer::Scalar> backward(const Layer& layer, const typename Layer::Activations& activations,
                                                              ConstView<std::type_identity_t<typename Layer::Scalar>> grad_out,
                                                              const Executor& executor = serial_executor()) {
  const Matrix<typename Layer::Scalar> grad_y = gradient_before_projection(layer, grad_out);
  return backward_from_y(layer, activations, ConstView<typename Layer::Scalar>(grad_y), executor);
}

namespace detail {

/// What a convolution gives, (tokens, channels): of the layer's own run if it is there, else computed from the linear input.
template <Real Scalar>
[[nodiscard]] Array<Scalar> convolved(std::string_view who, const Array<Scalar>& c, const Array<Scalar>& x, const Array<Scalar>& weight,
                                      const Array<Scalar>& bias, const Matrix<Scalar>& tail, const std::vector<Index>& starts, Index tokens,
                                      const Executor& executor) {
  if (!c.empty()) {
    check_activation(who, "c", c, tokens, weight.rows(), "(tokens, channels)");
    return c;
  }
  check_activation(who, "x", x, tokens, weight.rows(), "(tokens, channels)");
  return convolution_of(x, weight, bias, carried(tail), starts, executor);
}

/// Conv^T g for a convolution's weight (channels, width), (tokens, channels).
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> convolution_gradient(const Array<Scalar>& weight, const std::vector<Index>& starts, const Matrix<Scalar>& g,
                                                  const Executor& executor) {
  const Matrix<Scalar> taps = weight.matrix().transpose();
  Matrix<Scalar> out(g.rows(), g.cols());
  convolve_transposed<Scalar>(taps, starts, g, out, executor);
  return out;
}

/// d silu(x) / dx, elementwise.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> silu_derivative(ConstView<Scalar> x) {
  const Matrix<Scalar> s = sigmoid(x);
  return (s.array() * (Scalar(1) + x.array() * (Scalar(1) - s.array()))).matrix();
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
