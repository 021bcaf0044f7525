// The gated short convolution of LFM2 (Liquid AI 2025, arXiv 2511.23404): two linear gates around a causal convolution.
#pragma once

#include <algorithm>
#include <utility>

#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With width D and convolution width W:
///
///     [B | C | x] = u in_proj^T      y = C * (Conv(B * x) + conv_bias)      out = y out_proj^T      no other activation
///
/// In the unified form the convolution is the recurrence itself, R_e[i,j] = w_e[W - 1 - (i - j)], B the activation, which stands before
/// it, and C the gate: A_e = diag(C_e) R_e diag(B_e).
template <Real S>
class ShortConvolution : public LayerInterface<ShortConvolution<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "ShortConvolution";
  static constexpr bool separates_documents = true;  ///< see Part::separates_documents

  struct Weights {
    Array<Scalar> in_proj_weight;   ///< (3D, D): rows of B, C, x
    Array<Scalar> in_proj_bias;     ///< (3D), may be absent
    Array<Scalar> conv_weight;      ///< (D, W)
    Array<Scalar> conv_bias;        ///< (D), may be absent
    Array<Scalar> out_proj_weight;  ///< (D, D)
    Array<Scalar> out_proj_bias;    ///< (D), may be absent
  };

  /// What one piece of a sequence hands to the next.
  struct State {
    Matrix<Scalar> convolution_tail;  ///< (W - 1, D): the last B * x, oldest first
  };

  /// One sequence through the layer. An engine that has run the layer itself views its own buffers here.
  struct Activations {
    Array<Scalar> x;    ///< (L, D): the linear input
    Array<Scalar> B;    ///< (L, D): the gate before the convolution
    Array<Scalar> C;    ///< (L, D): the gate after it
    Array<Scalar> y;    ///< (L, D): output before the output projection
    Array<Scalar> out;  ///< (L, D)
    State initial;      ///< the state carried in; an empty matrix if none
    State final;        ///< the state after the last token
  };

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit ShortConvolution(Weights weights);

  /// Reads the weights below a prefix such as `model.layers.0.conv.`, under their public names.
  [[nodiscard, gnu::cold]] static ShortConvolution from_tensors(const PrefixedTensors<Scalar>& tensors);

  [[nodiscard]] Index width() const { return weights_.in_proj_weight.cols(); }
  [[nodiscard]] Index channels() const { return weights_.conv_weight.rows(); }
  [[nodiscard]] Index convolution_width() const { return weights_.conv_weight.cols(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }

  /// Runs the layer on u (L, D) within a trace, from `initial` if a state was carried in.
  [[nodiscard]] LayerRun<ShortConvolution> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;

  /// The unified form. Needs B and C, as far as the terms read them.
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, D) and bias of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.out_proj_weight; }
  [[nodiscard]] const Array<Scalar>& output_bias() const { return weights_.out_proj_bias; }

 private:
  Weights weights_;
  Array<Scalar> kernel_;  // (D, W): by distance, the newest token first
};

template <Real S>
ShortConvolution<S>::ShortConvolution(Weights weights) : weights_(std::move(weights)) {
  const Weights& w = weights_;
  const Index count = w.conv_weight.rows();
  if (w.conv_weight.empty()) detail::raise_shape(layer_name, "conv.weight", "is empty, expected (channels, convolution width)");
  check_shape(layer_name, "in_proj.weight", w.in_proj_weight, 3 * count, w.in_proj_weight.cols(), "(3 * channels, width)");
  detail::check_bias(layer_name, "in_proj.bias", w.in_proj_bias, 3 * count, "3 * channels");
  detail::check_bias(layer_name, "conv.bias", w.conv_bias, count, "channels");
  check_shape(layer_name, "out_proj.weight", w.out_proj_weight, width(), count, "(width, channels)");
  detail::check_bias(layer_name, "out_proj.bias", w.out_proj_bias, width(), "width");
  kernel_ = Matrix<Scalar>(w.conv_weight.matrix().rowwise().reverse());
}

template <Real S>
ShortConvolution<S> ShortConvolution<S>::from_tensors(const PrefixedTensors<Scalar>& tensors) {
  Weights w;
  w.in_proj_weight = tensors.required("in_proj.weight", 2);
  w.in_proj_bias = tensors.optional("in_proj.bias", 1);
  w.conv_weight = tensors.required("conv.weight");  // (D, 1, W), or (D, W)
  w.conv_bias = tensors.optional("conv.bias", 1);
  w.out_proj_weight = tensors.required("out_proj.weight", 2);
  w.out_proj_bias = tensors.optional("out_proj.bias", 1);
  return ShortConvolution(std::move(w));
}

template <Real S>
LayerRun<ShortConvolution<S>> ShortConvolution<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  const Weights& w = weights_;
  Activations act;
  if (initial) {
    check_shape(layer_name, "state.convolution_tail", initial->convolution_tail, convolution_width() - 1, channels(),
                "(convolution width - 1, channels)");
    act.initial = *initial;
  }
  const Array<Scalar> tail = detail::carried(act.initial.convolution_tail);
  const auto part = [&](Index index) {
    const Index first = index * channels();
    return linear(u, w.in_proj_weight.middle_rows(first, channels()), w.in_proj_bias.middle_columns(first, channels()));
  };
  const Value<Scalar> B = part(0), C = part(1), x = part(2);
  // Both factors are of the layer's operator: relevance gives them half each, WayBack::attention holds them.
  const Value<Scalar> gated = gate(B, x);
  const Value<Scalar> y = gate(C, convolution(gated, w.conv_weight, w.conv_bias, tail));
  const Value<Scalar> out = linear(y, w.out_proj_weight, w.out_proj_bias);
  act.x = x.numbers;
  act.B = B.numbers;
  act.C = C.numbers;
  act.y = y.numbers;
  act.out = out.numbers;
  act.final.convolution_tail = next_tail<Scalar>(*gated, tail, convolution_width());
  return {std::move(act), x, y, out};
}

template <Real S>
UnifiedForm<S> ShortConvolution<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = detail::tokens_of<Scalar>(terms, {{Term::activation, &act.B}, {Term::gate, &act.C}, {Term::recurrence, &act.x}});
  if (terms.has(Term::recurrence)) {
    detail::check_initial<Scalar>(layer_name, {{"convolution_tail", &act.initial.convolution_tail, convolution_width() - 1, channels(),
                                                "(convolution width - 1, channels)"}});
    ToeplitzRecurrence<Scalar> band;
    band.tokens = tokens;
    band.channels = band.heads = channels();
    band.kernel = kernel_;
    form.recurrence = std::move(band);
    form.continuation.has_all_taps = true;
    if (const Array<Scalar> tail = detail::carried(act.initial.convolution_tail); !tail.empty())
      form.initial_state = detail::convolution_of<Scalar>(Matrix<Scalar>(Matrix<Scalar>::Zero(tokens, channels())), weights_.conv_weight,
                                                          {}, tail, {}, serial_executor());
  } else {
    form.recurrence = identity_recurrence<Scalar>(tokens, channels());
  }
  if (terms.has(Term::activation)) {
    detail::check_activation(layer_name, "B", act.B, tokens, channels(), "(tokens, channels)");
    form.activation = act.B;
  }
  if (terms.has(Term::gate)) {
    detail::check_activation(layer_name, "C", act.C, tokens, channels(), "(tokens, channels)");
    form.gate = act.C;
  }
  form.norm_bias = if_on(terms, Term::bias, weights_.conv_bias);  // behind R, before the gate
  return form;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
