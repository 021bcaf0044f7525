// S4D (Gu et al. 2022, arXiv 2206.11893): a diagonal state space layer as a convolution as long as the sequence.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include <implicit_attention/core/configuration.hpp>
#include <implicit_attention/layers/layer_descriptor.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// With E channels of N/2 complex states, A = -exp(log_A_real) + i A_imag and dt = exp(log_dt):
///
///     K_e[m] = 2 Re sum_n C_n (exp(dt A_n) - 1) / A_n exp(dt A_n m)        T_e[i,j] = K_e[i - j]
///     s = (T + D) u        y = gelu(s) = Phi(s) s        [a | b] = y output_linear^T + bias        out = a sigmoid(b)
///
/// The linear input is u itself. GELU is a scale at the output token; it is the gate term.
template <Real S>
class S4d : public LayerInterface<S4d<S>> {
 public:
  using Scalar = S;
  static constexpr std::string_view layer_name = "S4D";

  struct Weights {
    Array<Scalar> log_dt;         ///< (E)
    Array<Scalar> C;              ///< (E N/2, 2): real and imaginary part
    Array<Scalar> log_A_real;     ///< (E, N/2)
    Array<Scalar> A_imag;         ///< (E, N/2)
    Array<Scalar> D;              ///< (E)
    Array<Scalar> output_weight;  ///< (2E, E)
    Array<Scalar> output_bias;    ///< (2E), may be absent
  };
  struct Options {
    Function activation = Function::gelu_erf;  ///< or gelu_tanh
  };
  [[nodiscard]] static Options options(const Configuration& configuration);

  /// Nothing is carried from piece to piece: the convolution sees one whole sequence.
  struct State {};
  /// One sequence through the layer. The implicit attention needs kernel and s.
  struct Activations {
    Array<Scalar> x;       ///< (L, E): the input itself
    Array<Scalar> kernel;  ///< (E, L): K
    Array<Scalar> s;       ///< (L, E): before GELU
    Array<Scalar> y;       ///< (L, E): before the output layer
    Array<Scalar> out;     ///< (L, E)
  };

  /// Checks every shape against the others; fails (ErrorKind::shape) naming the tensor.
  explicit S4d(Weights weights, Options options = {});
  /// Reads the weights below a prefix, under their public names.
  [[nodiscard, gnu::cold]] static S4d from_tensors(const PrefixedTensors<Scalar>& tensors, Options options = {});

  [[nodiscard]] Index width() const { return weights_.D.size(); }
  [[nodiscard]] Index channels() const { return weights_.D.size(); }
  [[nodiscard]] const Weights& weights() const { return weights_; }
  /// K of the first `length` lags, (E, length), computed in double.
  [[nodiscard]] Matrix<Scalar> kernel(Index length) const;

  /// Runs the layer on u (L, E) within a trace. A carried-in state is an error (ErrorKind::value).
  [[nodiscard]] LayerRun<S4d> run(const Value<Scalar>& u, RunContext<Scalar>& context, const State* initial = nullptr) const;
  /// The unified form (formulation: "S4D").
  [[nodiscard]] UnifiedForm<Scalar> lower(const Activations& act, Terms terms = Terms::all()) const;

 private:
  [[nodiscard]] ToeplitzRecurrence<Scalar> recurrence(const Activations& act) const;

  Weights weights_;
  Options options_;
};

template <Real S>
typename S4d<S>::Options S4d<S>::options(const Configuration& configuration) {
  const std::string name = configuration.text({"activation"}).value_or("gelu (erf)");
  if (name == "gelu (tanh)" || name == "gelu_tanh") return {Function::gelu_tanh};
  if (name != "gelu (erf)" && name != "gelu")
    detail::raise(ErrorKind::value, configuration.where(), ": activation is \"", name, "\", expected \"gelu\" or \"gelu_tanh\"");
  return {};
}

template <Real S>
S4d<S>::S4d(Weights weights, Options options) : weights_(std::move(weights)), options_(options) {
  const Weights& w = weights_;
  const Index E = channels(), half = w.log_A_real.cols();
  if (E < 1 || half < 1)
    detail::raise(ErrorKind::shape, "S4D: D or kernel.log_A_real is empty, expected (channels) and (channels, state / 2)");
  check_vector(layer_name, "D", w.D, E, "channels");
  check_vector(layer_name, "kernel.log_dt", w.log_dt, E, "channels");
  check_shape(layer_name, "kernel.log_A_real", w.log_A_real, E, half, "(channels, state / 2)");
  check_shape(layer_name, "kernel.A_imag", w.A_imag, E, half, "(channels, state / 2)");
  check_shape(layer_name, "kernel.C", w.C, E * half, 2, "(channels * state / 2, 2)");
  check_shape(layer_name, "output_linear.0.weight", w.output_weight, 2 * E, E, "(2*channels, channels)");
  detail::check_bias(layer_name, "output_linear.0.bias", w.output_bias, 2 * E, "2*channels");
}

template <Real S>
S4d<S> S4d<S>::from_tensors(const PrefixedTensors<Scalar>& tensors, Options options) {
  Weights w;
  w.log_dt = tensors.required("kernel.log_dt", 1);
  w.C = tensors.required("kernel.C", 3);
  w.log_A_real = tensors.required("kernel.log_A_real", 2);
  w.A_imag = tensors.required("kernel.A_imag", 2);
  w.D = tensors.required("D", 1);
  const Array<Scalar> output = tensors.required("output_linear.0.weight", 3);  // a convolution of width 1: (2E, E, 1)
  w.output_weight = Array<Scalar>(Matrix<S>(Eigen::Map<const Matrix<S>>(output.data(), 2 * w.D.size(), output.size() / (2 * w.D.size()))));
  w.output_bias = tensors.optional("output_linear.0.bias", 1);
  return S4d(std::move(w), options);
}

template <Real S>
Matrix<S> S4d<S>::kernel(Index length) const {
  const Weights& w = weights_;
  const Index half = w.log_A_real.cols();
  Matrix<S> out(channels(), length);
  for (Index e = 0; e < channels(); ++e) {
    const double dt = std::exp(static_cast<double>(w.log_dt(0, e)));
    RowVector<detail::WideScalar<S>> sum = RowVector<detail::WideScalar<S>>::Zero(length);
    for (Index n = 0; n < half; ++n) {
      const double real = -std::exp(static_cast<double>(w.log_A_real(e, n))), imag = static_cast<double>(w.A_imag(e, n));
      const double a = dt * real, b = dt * imag, sine = std::sin(b / 2);
      // exp(a + ib) - 1 without the cancellation at small dt: expm1(a) cos(b) - 2 sin^2(b/2) + i exp(a) sin(b)
      const double up_real = std::expm1(a) * std::cos(b) - 2 * sine * sine, up_imag = std::exp(a) * std::sin(b);
      const double square = real * real + imag * imag;
      const double q_real = (up_real * real + up_imag * imag) / square, q_imag = (up_imag * real - up_real * imag) / square;
      const double c_real = static_cast<double>(w.C(e * half + n, 0)), c_imag = static_cast<double>(w.C(e * half + n, 1));
      const double f_real = c_real * q_real - c_imag * q_imag, f_imag = c_real * q_imag + c_imag * q_real;
      for (Index m = 0; m < length; ++m) {
        const double lag = static_cast<double>(m);
        sum[m] += 2 * std::exp(a * lag) * (f_real * std::cos(b * lag) - f_imag * std::sin(b * lag));
      }
    }
    out.row(e) = sum.template cast<S>();
  }
  return out;
}

template <Real S>
LayerRun<S4d<S>> S4d<S>::run(const Value<Scalar>& u, RunContext<Scalar>&, const State* initial) const {
  if (initial != nullptr)
    detail::raise(ErrorKind::value, "S4D: a state was given, and this layer, a convolution of the whole sequence, has none");
  Activations act;
  act.x = u.numbers;
  act.kernel = kernel(u.rows());
  const Value<S> s = add(toeplitz(recurrence(act), Value<S>(), u), times_row(u, weights_.D));
  const Value<S> y = apply_function(options_.activation, s), pair = linear(y, weights_.output_weight, weights_.output_bias);
  const Value<S> out = scale(sigmoid(columns(pair, channels(), channels())), columns(pair, 0, channels()));
  act.s = s.numbers;
  act.y = y.numbers;
  act.out = out.numbers;
  return {std::move(act), u, y, out};
}

template <Real S>
UnifiedForm<S> S4d<S>::lower(const Activations& act, Terms terms) const {
  UnifiedForm<Scalar> form;
  const Index counted = detail::tokens_of<Scalar>(terms, {{Term::gate, &act.s}, {Term::recurrence, &act.x}, {Term::recurrence, &act.y}}),
              tokens = counted != 0 ? counted : act.kernel.cols();
  if (terms.has(Term::recurrence)) {
    detail::check_activation(layer_name, "kernel", act.kernel, channels(), tokens, "(channels, tokens)");
    form.recurrence = recurrence(act);
  } else {
    form.recurrence = identity_recurrence<Scalar>(tokens, channels());
  }
  if (terms.has(Term::gate)) {
    detail::check_activation(layer_name, "s", act.s, tokens, channels(), "(tokens, channels)");
    form.gate = function_scales<S>(options_.activation, *act.s);
  }
  form.skip = if_on(terms, Term::skip, weights_.D);
  return form;
}

template <Real S>
ToeplitzRecurrence<S> S4d<S>::recurrence(const Activations& act) const {
  ToeplitzRecurrence<S> recurrence;
  recurrence.tokens = act.kernel.cols();
  recurrence.channels = recurrence.heads = channels();
  recurrence.kernel = act.kernel;
  return recurrence;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
