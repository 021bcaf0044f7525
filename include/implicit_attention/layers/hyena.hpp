// Hyena of order 2 (Poli et al. 2023, arXiv 2302.10866): a convolution as long as the sequence between two gates.
#pragma once

#include <algorithm>
#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With E = D channels:
///
///     [x0 | x1 | v] = Conv(u in_proj^T + bias) + conv_bias        T_e[i,j] = filter[e, i - j]
///     y = x0 (T + filter_bias) (x1 v)                             out = y out_proj^T + bias
///
/// x0 is the gate; x1, signed and without a bound, stands in the place of the activation; the convolution of v is content. `filter` is what
/// the implicit filter network gives, evaluated once.
template <Real S>
class Hyena : public LayerInterface<Hyena<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "Hyena";

  struct Weights {
    Array<Scalar> in_proj_weight;       ///< (3E, D)
    Array<Scalar> in_proj_bias;         ///< (3E), may be absent
    Array<Scalar> short_filter_weight;  ///< (3E, W)
    Array<Scalar> short_filter_bias;    ///< (3E), may be absent
    Array<Scalar> filter;               ///< (E, longest sequence)
    Array<Scalar> filter_bias;          ///< (E): D
    Array<Scalar> out_proj_weight;      ///< (D, E)
    Array<Scalar> out_proj_bias;        ///< (D), may be absent
  };
  struct Options {};
  /// The layer has order 2; another is an error.
  [[nodiscard]] static Options options(const Configuration& configuration) {
    if (const Index order = configuration.integer({"order"}).value_or(2); order != 2)
      detail::raise(ErrorKind::value, configuration.where(), ": order is ", order, ", expected 2");
    return {};
  }

  /// Nothing is carried from piece to piece: the convolution sees one whole sequence.
  struct State {};
  /// One sequence through the layer. The implicit attention needs x0 and x1.
  struct Activations {
    Array<Scalar> x;       ///< (L, E): v before its convolution: the linear input
    Array<Scalar> c;       ///< (L, E): v after it, with its bias
    Array<Scalar> x0, x1;  ///< (L, E): the gates at the output and the input token
    Array<Scalar> y;       ///< (L, E): output before the output projection
    Array<Scalar> out;     ///< (L, D)
  };

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit Hyena(Weights weights, Options options = {});
  /// Reads the weights below a prefix, under their public names.
  [[nodiscard, gnu::cold]] static Hyena from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  [[nodiscard]] Index width() const { return weights_.in_proj_weight.cols(); }
  [[nodiscard]] Index channels() const { return weights_.filter_bias.size(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }

  /// Runs the layer on u (L, D) within a trace. A carried-in state, or more tokens than the filter has lags, is an error.
  [[nodiscard]] LayerRun<Hyena> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;
  /// The unified form (formulation: "Hyena").
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

  /// The weight (D, E) and bias of the output projection.
  [[nodiscard]] const Array<Scalar>& output_projection() const { return weights_.out_proj_weight; }
  [[nodiscard]] const Array<Scalar>& output_bias() const { return weights_.out_proj_bias; }

 private:
  [[nodiscard]] ToeplitzRecurrence<Scalar> recurrence(Index tokens) const;
  /// One third of an array that has x0, x1 and v below each other.
  [[nodiscard]] Array<Scalar> third(const Array<Scalar>& array, Index which) const {
    return array.empty()       ? array
           : array.rows() == 1 ? array.middle_columns(which * channels(), channels())
                               : array.middle_rows(which * channels(), channels());
  }

  Weights weights_;
};

template <Real S>
Hyena<S>::Hyena(Weights weights, Options) : weights_(std::move(weights)) {
  const Weights& w = weights_;
  const Index E = channels();
  if (E < 1 || w.filter.cols() < 1)
    detail::raise(ErrorKind::shape, "Hyena: filter or filter_bias is empty, expected (channels, length) and (channels)");
  check_vector(layer_name, "filter_bias", w.filter_bias, E, "channels");
  check_shape(layer_name, "filter", w.filter, E, w.filter.cols(), "(channels, length)");
  check_shape(layer_name, "in_proj.weight", w.in_proj_weight, 3 * E, width(), "(3*channels, width)");
  detail::check_bias(layer_name, "in_proj.bias", w.in_proj_bias, 3 * E, "3*channels");
  check_shape(layer_name, "short_filter.weight", w.short_filter_weight, 3 * E, std::max(w.short_filter_weight.cols(), Index(1)),
              "(3*channels, convolution width)");
  detail::check_bias(layer_name, "short_filter.bias", w.short_filter_bias, 3 * E, "3*channels");
  check_shape(layer_name, "out_proj.weight", w.out_proj_weight, width(), E, "(width, channels)");
  detail::check_bias(layer_name, "out_proj.bias", w.out_proj_bias, width(), "width");
}

template <Real S>
Hyena<S> Hyena<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  w.in_proj_weight = tensors.required("in_proj.weight", 2);
  w.in_proj_bias = tensors.optional("in_proj.bias", 1);
  w.short_filter_weight = tensors.required_convolution("short_filter.weight");
  w.short_filter_bias = tensors.optional("short_filter.bias", 1);
  w.filter = tensors.required("filter", 2);
  w.filter_bias = tensors.required("filter_bias", 1);
  w.out_proj_weight = tensors.required("out_proj.weight", 2);
  w.out_proj_bias = tensors.optional("out_proj.bias", 1);
  return Hyena(std::move(w), options);
}

template <Real S>
LayerRun<Hyena<S>> Hyena<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  if (initial != nullptr)
    detail::raise(ErrorKind::value, "Hyena: a state was given, and this layer, a convolution of the whole sequence, has none");
  const Weights& w = weights_;
  const auto part = [&](Index which) { return linear(u, third(w.in_proj_weight, which), third(w.in_proj_bias, which)); };
  const auto convolved = [&](const Value<S>& x, Index which) {
    return convolution(x, third(w.short_filter_weight, which), third(w.short_filter_bias, which));
  };
  const Value<S> x0 = convolved(part(0), 0), x1 = convolved(part(1), 1), x = part(2), c = convolved(x, 2), a = product(x1, c);
  const Value<S> y = gate(x0, add(toeplitz(recurrence(u.rows()), Value<S>(), a), times_row(a, w.filter_bias)));
  const Value<S> out = linear(y, w.out_proj_weight, w.out_proj_bias);
  Activations act;
  act.x = x.numbers;
  act.c = c.numbers;
  act.x0 = x0.numbers;
  act.x1 = x1.numbers;
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), x, y, out};
}

template <Real S>
UnifiedForm<S> Hyena<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index tokens = detail::tokens_of<Scalar>(
      terms, {{Term::gate, &act.x0}, {Term::activation, &act.x1}, {Term::activation, &act.c}, {Term::recurrence, &act.x}});
  const auto on = [&](Term term, const char* name, const Array<Scalar>& array) {
    if (!terms.has(term)) return Array<Scalar>();
    detail::check_activation(layer_name, name, array, tokens, channels(), "(tokens, channels)");
    return array;
  };
  if (terms.has(Term::recurrence))
    form.recurrence = recurrence(tokens);
  else
    form.recurrence = identity_recurrence<Scalar>(tokens, channels());
  form.gate = on(Term::gate, "x0", act.x0);
  form.activation = on(Term::activation, "x1", act.x1);
  form.skip = if_on(terms, Term::skip, weights_.filter_bias);
  form.convolution = if_on(terms, Term::convolution, third(weights_.short_filter_weight, 2));
  form.convolution_bias = if_on(terms, Term::bias, third(weights_.short_filter_bias, 2));
  return form;
}

template <Real S>
ToeplitzRecurrence<S> Hyena<S>::recurrence(Index tokens) const {
  if (tokens > weights_.filter.cols())
    detail::raise(ErrorKind::shape, "Hyena: the input has ", tokens, " tokens, expected at most ", weights_.filter.cols(),
                  ", the filter's length");
  ToeplitzRecurrence<S> recurrence;
  recurrence.tokens = tokens;
  recurrence.channels = recurrence.heads = channels();
  recurrence.kernel = weights_.filter;
  return recurrence;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
