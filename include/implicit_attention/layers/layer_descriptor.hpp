// What a layer descriptor is, and what every one of them can do.
#pragma once

#include <concepts>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/kernels/convolution.hpp>
#include <implicit_attention/operator/implicit_attention.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A token-mixing layer that is linear in its linear input, given its data-dependent scales.
template <class Layer>
concept LayerDescriptor = requires(const Layer& layer, const typename Layer::Activations& activations, ConstView<typename Layer::Scalar> u,
                                   Terms terms) {
  requires Real<typename Layer::Scalar>;                                             // float or double
  { layer.width() } -> std::convertible_to<Index>;                                   // model width D: columns of u
  { layer.channels() } -> std::convertible_to<Index>;                                // inner width E: columns of x and y
  { layer.activations(u) } -> std::same_as<typename Layer::Activations>;             // runs the layer on u (tokens, D)
  { activations.x } -> std::convertible_to<const Array<typename Layer::Scalar>&>;    // linear input (tokens, E)
  { activations.y } -> std::convertible_to<const Array<typename Layer::Scalar>&>;    // output before the output projection (tokens, E)
  { activations.out } -> std::convertible_to<const Array<typename Layer::Scalar>&>;  // output (tokens, D)
  { layer.lower(activations, terms) } -> std::same_as<UnifiedForm<typename Layer::Scalar>>;  // the unified form, these terms on
};

/// What to materialise, and of which terms.
struct MaterializeOptions : Selection {
  Terms terms = Terms::all();
};

/// Everything of `y = A x + bias + carry` for one sequence.
template <Real Scalar>
struct MaterializedAttention {
  AttentionMatrix<Scalar> attention;  ///< (chosen channels, chosen rows, tokens)
  Matrix<Scalar> bias;                ///< (tokens, channels)
  Matrix<Scalar> carry;               ///< (tokens, channels): what a carried-in state gives, else zero
  Array<Scalar> x;                    ///< (tokens, channels): the linear input
  Array<Scalar> y;                    ///< (tokens, channels): the layer's output before its output projection
  Array<Scalar> out;                  ///< (tokens, width): the layer's output
};

/// The implicit attention of a layer, as an operator.
template <LayerDescriptor Layer>
[[nodiscard]] ImplicitAttention<typename Layer::Scalar> implicit_attention_of(const Layer& layer,
                                                                              const typename Layer::Activations& activations,
                                                                              Terms terms = Terms::all()) {
  return ImplicitAttention<typename Layer::Scalar>(layer.lower(activations, terms));
}

/// Materialises the implicit attention of a layer that has run.
template <LayerDescriptor Layer>
[[nodiscard]] MaterializedAttention<typename Layer::Scalar> materialize_attention(const Layer& layer,
                                                                                  const typename Layer::Activations& activations,
                                                                                  const MaterializeOptions& options = {}) {
  const ImplicitAttention<typename Layer::Scalar> attention = implicit_attention_of(layer, activations, options.terms);
  return {attention.materialize(options),
          attention.bias(options.executor),
          attention.carry(options.executor),
          activations.x,
          activations.y,
          activations.out};
}

/// The short way through all of it, on every descriptor of this library: `layer.materialize_attention(u)`.
template <class Derived>
class LayerInterface {
 public:
  /// The implicit attention operator of the sequence that gave `activations`; they must stay alive where they view foreign memory.
  template <class Activations>
  [[nodiscard]] auto implicit_attention(const Activations& activations, Terms terms = Terms::all()) const {
    return implicit_attention_of(self(), activations, terms);
  }
  /// Runs the layer on u (tokens, width) and materialises its implicit attention, (channels, rows, tokens), with bias and output.
  template <class Input>
  [[nodiscard]] auto materialize_attention(const Input& u, const MaterializeOptions& options = {}) const {
    using Scalar = typename Derived::Scalar;
    return ::implicit_attention::materialize_attention(self(), self().activations(ConstView<Scalar>(u)), options);
  }

 private:
  [[nodiscard]] const Derived& self() const { return static_cast<const Derived&>(*this); }
};

namespace detail {
/// Fails unless u is at least one token of the layer's width.
template <Real Scalar>
void check_input(std::string_view who, ConstView<Scalar> u, Index width) {
  if (u.rows() == 0) raise(ErrorKind::shape, message(who, ": the input has no tokens, expected at least one"));
  if (u.cols() != width)
    raise(ErrorKind::shape,
          message(who, ": the input is ", shape_text({u.rows(), u.cols()}), ", expected (tokens, ", width, ") = (tokens, width)"));
}

/// u weight^T + bias.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> project(ConstView<Scalar> u, ConstView<Scalar> weight, const Array<Scalar>& bias = {}) {
  Matrix<Scalar> out = large_matrix<Scalar>(u.rows(), weight.rows(), "a projection");
  out.noalias() = u * weight.transpose();
  if (!bias.empty()) out.rowwise() += bias.matrix().row(0);
  return out;
}

/// The causal depthwise convolution of x (tokens, channels) with a weight (channels, width): Conv x + bias. `tail` are the rows before x,
/// (width - 1, channels) or none; beyond the tokens of `starts` it does not look back.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> convolution_of(const Array<Scalar>& x, const Array<Scalar>& weight, const Array<Scalar>& bias,
                                            const Matrix<Scalar>& tail, const std::vector<Index>& starts, const Executor& executor) {
  SurroundedDiagonal<Scalar> surrounded;
  surrounded.recurrence.tokens = x.rows();
  surrounded.recurrence.channels = weight.rows();
  surrounded.taps = Matrix<Scalar>(weight.matrix().transpose());
  surrounded.convolution_starts = starts;
  ScanInput<Scalar> input;
  input.x = x;
  input.convolution_bias = bias;
  input.convolution_tail = Array<Scalar>::view(tail);
  Matrix<Scalar> out = large_matrix<Scalar>(x.rows(), weight.rows(), "a convolution");
  convolve(surrounded, input, View<Scalar>(out), executor);
  return out;
}

/// The last `width - 1` rows of (tail, x): what the next piece of the sequence needs of this one.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> next_tail(ConstView<Scalar> x, const Array<Scalar>& tail, Index width) {
  Matrix<Scalar> next = Matrix<Scalar>::Zero(width - 1, x.cols());
  for (Index row = 0; row < width - 1; ++row) {
    const Index source = x.rows() - (width - 1) + row;  // negative: in the tail
    if (source >= 0)
      next.row(row) = x.row(source);
    else if (!tail.empty())
      next.row(row) = tail.matrix().row(width - 1 + source);
  }
  return next;
}
}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
