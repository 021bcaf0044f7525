// Elementwise functions and their derivatives: each written once.
#pragma once

#include <cmath>
#include <string_view>

#include <implicit_attention/core/numerics.hpp>

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
}  // namespace detail

/// f(x) of every number.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> function_values(Function function, ConstView<Scalar> x) {
  switch (function) {
    case Function::identity:
      break;
    case Function::sigmoid:
      return sigmoid(x);
    case Function::silu:
      return silu(x);
    case Function::gelu_tanh:
      return large_matrix(x.cwiseProduct(gelu_scale(x)));
    case Function::gelu_erf:
      return x.unaryExpr([](Scalar v) { return v * detail::normal_cumulative(v); });
    case Function::relu:
      return large_matrix(x.cwiseMax(Scalar(0)));
    case Function::relu_squared:
      return large_matrix(x.cwiseMax(Scalar(0)).cwiseAbs2());
    case Function::tanh:
      return large_matrix(x.array().tanh().matrix());
    case Function::softplus:
      return softplus(x);
    case Function::log_sigmoid:
      return large_matrix(Matrix<Scalar>(-softplus(-x)));
    case Function::exp:
      return large_matrix(x.array().exp().matrix());
    case Function::elu_plus_one:
      return x.unaryExpr([](Scalar v) { return v < Scalar(0) ? std::exp(v) : v + Scalar(1); });
  }
  return x;
}

/// f'(x) of every number.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> function_slopes(Function function, ConstView<Scalar> x) {
  switch (function) {
    case Function::identity:
      break;
    case Function::sigmoid: {
      const Matrix<Scalar> s = sigmoid(x);
      return (s.array() * (Scalar(1) - s.array())).matrix();
    }
    case Function::silu: {
      const Matrix<Scalar> s = sigmoid(x);
      return (s.array() * (Scalar(1) + x.array() * (Scalar(1) - s.array()))).matrix();
    }
    case Function::gelu_tanh:
      return x.unaryExpr([](Scalar v) { return gelu_derivative(v); });
    case Function::gelu_erf:
      return x.unaryExpr(
          [](Scalar v) { return detail::normal_cumulative(v) + v * Scalar(0.39894228040143267794) * std::exp(Scalar(-0.5) * v * v); });
    case Function::relu:
      return x.unaryExpr([](Scalar v) { return v > Scalar(0) ? Scalar(1) : Scalar(0); });
    case Function::relu_squared:
      return Scalar(2) * x.cwiseMax(Scalar(0));
    case Function::tanh:
      return (Scalar(1) - x.array().tanh().square()).matrix();
    case Function::softplus:
      return sigmoid(x);
    case Function::log_sigmoid:
      return sigmoid(-x);
    case Function::exp:
      return x.array().exp().matrix();
    case Function::elu_plus_one:
      return x.unaryExpr([](Scalar v) { return v < Scalar(0) ? std::exp(v) : Scalar(1); });
  }
  return Matrix<Scalar>::Ones(x.rows(), x.cols());
}

/// f(x) / x of every number, for a homogeneous function: the scale that relevance holds.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> function_scales(Function function, ConstView<Scalar> x) {
  switch (function) {
    case Function::silu:
      return sigmoid(x);
    case Function::gelu_tanh:
      return gelu_scale(x);
    case Function::gelu_erf:
      return x.unaryExpr([](Scalar v) { return detail::normal_cumulative(v); });
    case Function::relu:
      return function_slopes(Function::relu, x);
    case Function::relu_squared:
      return x.cwiseMax(Scalar(0));
    default:
      break;
  }
  return Matrix<Scalar>::Ones(x.rows(), x.cols());
}

IMPLICIT_ATTENTION_NAMESPACE_END
