// The exact gradient of one layer by itself: it runs recorded, and the record is walked back.
#pragma once

#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/layers/layer_descriptor.hpp>
#include <implicit_attention/trace/walk_back.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The gradient of one number with respect to a layer's output before its projection, its linear input and its input. Total derivatives:
/// through convolution, activation, decays, queries, keys, gates and normalization, whatever depends on them. (The direct path alone, all
/// scales held constant, is ImplicitAttention::apply_transpose.) A carried-in state is a constant.
template <Real Scalar>
struct LayerGradients {
  Matrix<Scalar> grad_y;  ///< (tokens, channels)
  Matrix<Scalar> grad_x;  ///< (tokens, channels)
  Matrix<Scalar> grad_u;  ///< (tokens, width)
};

/// What a layer's run begins with, beside its input.
template <class State>
struct LayerStart {
  const State* initial = nullptr;  ///< the state carried in; null: none
  std::vector<Index> positions;    ///< (tokens), for layers that have positions; empty: 0, 1, 2, ...
};

namespace detail {
template <class Layer>
struct StateOf {
  struct Nothing {};
  using Type = Nothing;
};
template <class Layer>
  requires requires { typename Layer::State; }
struct StateOf<Layer> {
  using Type = typename Layer::State;
};

template <TracedLayer Layer, class Scalar = typename Layer::Scalar>
[[nodiscard]] LayerGradients<Scalar> walk_layer(const Layer& layer, ConstView<Scalar> u, bool from_y, ConstView<Scalar> grad, WayBack way,
                                                const Executor& executor, const LayerStart<typename StateOf<Layer>::Type>& start) {
  check_input("backward", u, layer.width());
  Trace<Scalar> trace(true, executor);
  RunContext<Scalar> context;
  context.positions = start.positions;
  const Value<Scalar> input = trace.input(Array<Scalar>::view(u));
  const auto run_from = [&] {
    if constexpr (requires { layer.run(input, context, start.initial); })
      return layer.run(input, context, start.initial);
    else
      return layer.run(input, context);
  };
  const LayerRun<Layer> run = run_from();
  const Value<Scalar>& end = from_y ? run.y : run.out;
  check_shape("backward", from_y ? "grad_y" : "grad_out", grad, end.rows(), end.cols(), from_y ? "(tokens, channels)" : "(tokens, width)");
  WalkResult<Scalar> walked = trace.walk_back(way, {{end, Matrix<Scalar>(grad)}}, {run.y, run.x, input});
  return {std::move(walked.gradients[0]), std::move(walked.gradients[1]), std::move(walked.gradients[2])};
}
}  // namespace detail

/// From d out (tokens, width) to the gradients with respect to y, x and u, for the layer's run on u (tokens, width).
template <TracedLayer Layer>
[[nodiscard]] LayerGradients<typename Layer::Scalar> backward(const Layer& layer, ConstView<std::type_identity_t<typename Layer::Scalar>> u,
                                                              ConstView<std::type_identity_t<typename Layer::Scalar>> grad_out,
                                                              const Executor& executor = serial_executor(),
                                                              const LayerStart<typename detail::StateOf<Layer>::Type>& start = {}) {
  return detail::walk_layer(layer, u, false, grad_out, WayBack::gradient, executor, start);
}

/// The same from d y (tokens, channels).
template <TracedLayer Layer>
[[nodiscard]] LayerGradients<typename Layer::Scalar> backward_from_y(const Layer& layer,
                                                                     ConstView<std::type_identity_t<typename Layer::Scalar>> u,
                                                                     ConstView<std::type_identity_t<typename Layer::Scalar>> grad_y,
                                                                     const Executor& executor = serial_executor(),
                                                                     const LayerStart<typename detail::StateOf<Layer>::Type>& start = {}) {
  return detail::walk_layer(layer, u, true, grad_y, WayBack::gradient, executor, start);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
