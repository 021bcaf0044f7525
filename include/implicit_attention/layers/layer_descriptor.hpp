// What a layer descriptor is, and what every one of them can do.
#pragma once

#include <concepts>
#include <initializer_list>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/layers/activation_checks.hpp>
#include <implicit_attention/layers/made_from.hpp>
#include <implicit_attention/operator/implicit_attention.hpp>
#include <implicit_attention/trace/causal_convolution.hpp>
#include <implicit_attention/trace/heads.hpp>
#include <implicit_attention/trace/operations.hpp>
#include <implicit_attention/trace/recurrences.hpp>
#include <implicit_attention/trace/run_context.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A token-mixing layer that is linear in its linear input, given its data-dependent scales.
template <class Layer>
concept LayerDescriptor = requires(const Layer& layer, const typename Layer::Activations& activations, Terms terms) {
  requires Real<typename Layer::Scalar>;                                             // float or double
  { layer.width() } -> std::convertible_to<Index>;                                   // model width D: columns of u
  { layer.channels() } -> std::convertible_to<Index>;                                // inner width E: columns of x and y
  { activations.x } -> std::convertible_to<const Array<typename Layer::Scalar>&>;    // linear input (tokens, E)
  { activations.y } -> std::convertible_to<const Array<typename Layer::Scalar>&>;    // output before the output projection (tokens, E)
  { activations.out } -> std::convertible_to<const Array<typename Layer::Scalar>&>;  // output (tokens, D)
  { layer.lower(activations, terms) } -> std::same_as<UnifiedForm<typename Layer::Scalar>>;  // the unified form, these terms on
};

/// One sequence through a layer within a trace: the numbers it kept, and the three values whose gradients are asked for. A layer whose form
/// has a second path gives the value that path acts on as well.
template <class Layer>
struct LayerRun {
  using Scalar = typename Layer::Scalar;
  typename Layer::Activations activations;
  Value<Scalar> x, y, out;
  Value<Scalar> second_x = {};
};

/// A layer whose forward pass is written from the trace's operations: `run(u, context)`.
template <class Layer>
concept TracedLayer = LayerDescriptor<Layer> &&
    requires(const Layer& layer, const Value<typename Layer::Scalar>& u, RunContext<typename Layer::Scalar>& context) {
  { layer.run(u, context) } -> std::same_as<LayerRun<Layer>>;
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

/// The implicit attention of a layer, as an operator. With some terms no array is read, so no other check would notice empty activations.
template <LayerDescriptor Layer>
[[nodiscard]] ImplicitAttention<typename Layer::Scalar> implicit_attention_of(const Layer& layer,
                                                                              const typename Layer::Activations& activations,
                                                                              Terms terms = Terms::all()) {
  UnifiedForm<typename Layer::Scalar> form = layer.lower(activations, terms);
  if (form.tokens() == 0 && activations.x.empty())
    detail::raise(ErrorKind::shape, "activations: there are no tokens, expected at least one; fill activations.x");
  return ImplicitAttention<typename Layer::Scalar>(std::move(form));
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
  /// Runs the layer on u (L, D), from `initial` if a state was carried in. Nothing is recorded. Activations may view u's numbers, which
  /// must outlive them: the matrix that u is, or is a block or a map of. A temporary matrix is taken over; a block of one is not, and its
  /// view would be of freed memory (`layer.activations(read().topRows(9))`): keep the matrix, or pass `Matrix<Scalar>(block)`.
  template <class Input, class Layer = Derived>
  [[nodiscard]] typename Layer::Activations activations(Input&& u, const typename Layer::State* initial = nullptr,
                                                        const Executor& executor = serial_executor()) const {
    using Scalar = typename Layer::Scalar;
    RunContext<Scalar> context;
    return run_plainly<Layer>(detail::taken_or_viewed<Scalar>(std::forward<Input>(u)), context, initial, executor);
  }
  /// The same with the position of every token (L), of layers that read them: `static constexpr bool reads_positions = true`.
  template <class Input, class Layer = Derived>
    requires(Layer::reads_positions)
  [[nodiscard]] typename Layer::Activations activations(Input&& u, const std::vector<Index>& positions,
                                                        const typename Layer::State* initial = nullptr,
                                                        const Executor& executor = serial_executor()) const {
    using Scalar = typename Layer::Scalar;
    Array<Scalar> input = detail::taken_or_viewed<Scalar>(std::forward<Input>(u));
    detail::check_input(Layer::layer_name, *input, self().width());
    detail::check_positions(Layer::layer_name, positions, input.rows());
    RunContext<Scalar> context;
    context.positions = positions;
    return run_plainly<Layer>(std::move(input), context, initial, executor);
  }
  /// The implicit attention operator of the sequence that gave `activations`; they must stay alive where they view foreign memory.
  template <class Activations>
  [[nodiscard]] auto implicit_attention(const Activations& activations, Terms terms = Terms::all()) const {
    return implicit_attention_of(self(), activations, terms);
  }
  /// Runs the layer on u (tokens, width) and materialises its implicit attention, (channels, rows, tokens), with bias and output.
  template <class Input>
  [[nodiscard]] auto materialize_attention(Input&& u, const MaterializeOptions& options = {}) const {
    return ::implicit_attention::materialize_attention(self(), self().activations(std::forward<Input>(u)), options);
  }

 private:
  [[nodiscard]] const Derived& self() const { return static_cast<const Derived&>(*this); }
  template <class Layer>
  [[nodiscard]] typename Layer::Activations run_plainly(Array<typename Layer::Scalar> u, RunContext<typename Layer::Scalar>& context,
                                                        const typename Layer::State* initial, const Executor& executor) const {
    detail::check_input(Layer::layer_name, *u, self().width());
    Trace<typename Layer::Scalar> trace(false, executor);
    return self().run(trace.input(std::move(u)), context, initial).activations;
  }
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
