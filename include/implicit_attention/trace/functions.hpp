// Elementwise functions and their derivatives: each written once.
#pragma once

#include <cmath>
#include <string_view>

#include <implicit_attention/core/numerics.hpp>
#include <implicit_attention/kernels/lanes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// The elementwise functions that layers are made of.
enum class Function {
  identity,
  sigmoid,
  silu,       ///< x sigmoid(x)
  gelu_tanh,  ///< GELU in its tanh form
  gelu_erf,   ///< x Phi(x)
  relu,
  relu_squared,  ///< max(x, 0)^2
  tanh,
  softplus,     ///< log(1 + exp(x))
  log_sigmoid,  ///< log sigmoid(x)
  exp,
  elu_plus_one  ///< exp(x) below 0, 1 + x from there on
};

/// Whether f(x) = scale(x) x with a scale that relevance holds: a gate that carries relevance.
[[nodiscard]] constexpr bool homogeneous(Function function) {
  return function == Function::identity || function == Function::silu || function == Function::gelu_tanh ||
         function == Function::gelu_erf || function == Function::relu || function == Function::relu_squared;
}

[[nodiscard]] constexpr std::string_view function_name(Function function) {
  switch (function) {
    case Function::identity:
      return "identity";
    case Function::sigmoid:
      return "sigmoid";
    case Function::silu:
      return "silu";
    case Function::gelu_tanh:
      return "gelu (tanh)";
    case Function::gelu_erf:
      return "gelu (erf)";
    case Function::relu:
      return "relu";
    case Function::relu_squared:
      return "relu squared";
    case Function::tanh:
      return "tanh";
    case Function::softplus:
      return "softplus";
    case Function::log_sigmoid:
      return "log sigmoid";
    case Function::exp:
      return "exp";
    case Function::elu_plus_one:
      return "elu + 1";
  }
  return "?";
}

namespace detail {
template <Real Scalar>
[[nodiscard]] Scalar normal_cumulative(Scalar x) {
  return Scalar(0.5) * std::erfc(-x * Scalar(0.70710678118654752440));
}
/// number -> function(number), one by one: for what Eigen does not vectorise.
template <Real Scalar, class Each>
void change_each(Numbers<Scalar> x, Each function) {
  for (Index i = 0; i < x.size(); ++i) x[i] = function(x[i]);
}

template <Real Scalar>
IMPLICIT_ATTENTION_FLATTEN void positive_parts(Numbers<Scalar> x) {
  x = x.max(Scalar(0));
}
template <Real Scalar>
IMPLICIT_ATTENTION_FLATTEN void exponentials(Numbers<Scalar> x) {
  x = x.exp();
}

/// x becomes f(x), number by number.
template <Real Scalar>
void take_values(Function function, Numbers<Scalar> x) {
  switch (function) {
    case Function::identity:
      return;
    case Function::sigmoid:
      return sigmoid_in_place<Scalar>(x);
    case Function::silu:
      return silu_in_place<Scalar>(x);
    case Function::gelu_tanh: {
      RowVector<Scalar> scales(x.size());
      Numbers<Scalar> scale(scales.data(), x.size());
      scale = x;
      gelu_scale_in_place<Scalar>(scale);
      x *= scale;
      return;
    }
    case Function::gelu_erf:
      return change_each<Scalar>(x, [](Scalar v) { return v * normal_cumulative(v); });
    case Function::relu:
      positive_parts<Scalar>(x);
      return;
    case Function::relu_squared:
      positive_parts<Scalar>(x);
      x *= x;
      return;
    case Function::tanh:
      x = x.tanh();
      return;
    case Function::softplus:
      return softplus_in_place<Scalar>(x);
    case Function::log_sigmoid:
      x = -x;
      softplus_in_place<Scalar>(x);
      x = -x;
      return;
    case Function::exp:
      return exponentials<Scalar>(x);
    case Function::elu_plus_one:
      return change_each<Scalar>(x, [](Scalar v) { return v < Scalar(0) ? std::exp(v) : v + Scalar(1); });
  }
}

/// x becomes f'(x), number by number; a NaN stays one.
template <Real Scalar>
void take_slopes(Function function, Numbers<Scalar> x) {
  switch (function) {
    case Function::identity:
      x.setOnes();
      return;
    case Function::sigmoid:
      sigmoid_in_place<Scalar>(x);
      x *= Scalar(1) - x;
      return;
    case Function::silu: {
      RowVector<Scalar> sigmoids(x.size());
      Numbers<Scalar> s(sigmoids.data(), x.size());
      s = x;
      sigmoid_in_place<Scalar>(s);
      x = s * (Scalar(1) + x * (Scalar(1) - s));
      return;
    }
    case Function::gelu_tanh:
      return change_each<Scalar>(x, [](Scalar v) { return gelu_derivative(v); });
    case Function::gelu_erf:
      return change_each<Scalar>(
          x, [](Scalar v) { return normal_cumulative(v) + v * Scalar(0.39894228040143267794) * std::exp(Scalar(-0.5) * v * v); });
    case Function::relu:
      return change_each<Scalar>(x, [](Scalar v) { return v > Scalar(0) ? Scalar(1) : std::isnan(v) ? v : Scalar(0); });
    case Function::relu_squared:
      positive_parts<Scalar>(x);
      x += x;
      return;
    case Function::tanh:
      x = x.tanh();
      x = Scalar(1) - x.square();
      return;
    case Function::softplus:
      return sigmoid_in_place<Scalar>(x);
    case Function::log_sigmoid:
      x = -x;
      return sigmoid_in_place<Scalar>(x);
    case Function::exp:
      return exponentials<Scalar>(x);
    case Function::elu_plus_one:
      return change_each<Scalar>(x, [](Scalar v) { return v < Scalar(0) ? std::exp(v) : std::isnan(v) ? v : Scalar(1); });
  }
}

/// x becomes f(x) / x, number by number, for a homogeneous function: the scale that relevance holds.
template <Real Scalar>
void take_scales(Function function, Numbers<Scalar> x) {
  switch (function) {
    case Function::silu:
      return sigmoid_in_place<Scalar>(x);
    case Function::gelu_tanh:
      return gelu_scale_in_place<Scalar>(x);
    case Function::gelu_erf:
      return change_each<Scalar>(x, [](Scalar v) { return normal_cumulative(v); });
    case Function::relu:
      return take_slopes<Scalar>(Function::relu, x);
    case Function::relu_squared:
      positive_parts<Scalar>(x);
      return;
    default:
      x.setOnes();
  }
}

template <Real Scalar>
using TakeFunction = void (*)(Function, Numbers<Scalar>);
}  // namespace detail

/// f(x) of every number.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> function_values(Function function, ConstView<Scalar> x) {
  return detail::changed(x, [function](detail::Numbers<Scalar> numbers) { detail::take_values<Scalar>(function, numbers); });
}

/// The same through an executor.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> function_values(Function function, ConstView<Scalar> x, const Executor& executor) {
  return detail::changed<Scalar>(
      x, [function](detail::Numbers<Scalar> numbers) { detail::take_values<Scalar>(function, numbers); }, executor);
}

/// f'(x) of every number.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> function_slopes(Function function, ConstView<Scalar> x) {
  return detail::changed(x, [function](detail::Numbers<Scalar> numbers) { detail::take_slopes<Scalar>(function, numbers); });
}

/// f(x) / x of every number, for a homogeneous function: the scale that relevance holds; NaN where x is infinite.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> function_scales(Function function, ConstView<Scalar> x) {
  Matrix<Scalar> scales =
      detail::changed(x, [function](detail::Numbers<Scalar> numbers) { detail::take_scales<Scalar>(function, numbers); });
  if (!detail::all_finite(x)) scales += x * Scalar(0);
  return scales;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
