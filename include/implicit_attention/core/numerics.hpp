// The elementary functions of the layers, accurate in their tails.
#pragma once

#include <algorithm>
#include <cmath>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/lanes.hpp>
#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// 1 / (1 + exp(-x)), without overflow on either side.
template <Real Scalar>
[[nodiscard]] Scalar sigmoid(Scalar x) {
  if (x >= 0) return Scalar(1) / (Scalar(1) + std::exp(-x));
  const Scalar e = std::exp(x);
  return e / (Scalar(1) + e);
}

/// log(1 + exp(x)): x for large x, exp(x) for small.
template <Real Scalar>
[[nodiscard]] Scalar softplus(Scalar x) {
  return std::max(x, Scalar(0)) + std::log1p(std::exp(-std::abs(x)));
}

/// x * sigmoid(x).
template <Real Scalar>
[[nodiscard]] Scalar silu(Scalar x) {
  return x * sigmoid(x);
}

namespace detail {
/// (1 + tanh(f)) / 2 = sigmoid(2 f), which does not cancel where tanh(f) is near -1; 2 f = 2 sqrt(2/pi) (x + 0.044715 x^3).
template <Real Scalar>
constexpr Scalar gelu_linear = Scalar(1.5957691216057308);
template <Real Scalar>
constexpr Scalar gelu_cubic = Scalar(0.044715);
}  // namespace detail

/// The data-dependent scale of the tanh form of GELU: gelu(x) = gelu_scale(x) * x.
template <Real Scalar>
[[nodiscard]] Scalar gelu_scale(Scalar x) {
  return sigmoid(detail::gelu_linear<Scalar> * (x + detail::gelu_cubic<Scalar> * x * x * x));
}

/// d/dx of the tanh form of GELU.
template <Real Scalar>
[[nodiscard]] Scalar gelu_derivative(Scalar x) {
  const Scalar linear = detail::gelu_linear<Scalar>, cubic = detail::gelu_cubic<Scalar>, inner = linear * (x + cubic * x * x * x);
  const Scalar s = sigmoid(inner);
  return s + x * s * sigmoid(-inner) * linear * (Scalar(1) + Scalar(3) * cubic * x * x);
}

/// sqrt(1 - a^2) from log(a) <= 0, without the cancellation at a near 1.
template <Real Scalar>
[[nodiscard]] Scalar sqrt_one_minus_square(Scalar log_a) {
  return std::sqrt(-std::expm1(Scalar(2) * log_a));
}

// The same in place, vectorised where Eigen has all of its functions so.
namespace detail {
template <Real Scalar>
void sigmoid_in_place(Numbers<Scalar> x) {
  x = ((-x).exp() + Scalar(1)).inverse();
}
template <Real Scalar>
void silu_in_place(Numbers<Scalar> x) {
  x *= ((-x).exp() + Scalar(1)).inverse();
}
template <Real Scalar>
void softplus_in_place(Numbers<Scalar> x) {
  x = x.max(Scalar(0)) + (-x.abs()).exp().log1p();
}
template <Real Scalar>
void gelu_scale_in_place(Numbers<Scalar> x) {
  x = gelu_linear<Scalar> * (x + gelu_cubic<Scalar> * x.cube());
  sigmoid_in_place<Scalar>(x);
}
template <Real Scalar>
void sqrt_one_minus_square_in_place(Numbers<Scalar> log_a) {
  log_a = (-(Scalar(2) * log_a).expm1()).sqrt();
}
/// A new matrix of the same numbers, changed by function(numbers) in panels of `numbers` through an executor.
template <Real Scalar, class Function>
[[nodiscard]] Matrix<Scalar> changed(ConstView<Scalar> x, const Function& function, const Executor& executor, Index numbers) {
  Matrix<Scalar> out = large_matrix<Scalar>(x.rows(), x.cols(), "an activation");
  for_row_panels(
      x.rows(), x.cols(), executor,
      [&](Index first, Index count) {
        View<Scalar> panel(out.data() + first * x.cols(), count, x.cols());
        panel = ConstView<Scalar>(x.middleRows(first, count));
        function(Numbers<Scalar>(panel.data(), panel.size()));
      },
      numbers);
  return out;
}
/// The same of an expression, which is evaluated whole; what is numbers already goes panel by panel while it is in the nearest cache.
template <class Derived, class Function>
[[nodiscard]] Matrix<typename Derived::Scalar> changed(const Eigen::MatrixBase<Derived>& x, const Function& function) {
  using Scalar = typename Derived::Scalar;
  if constexpr (viewable<Derived> && bool(Derived::IsRowMajor)) {
    return changed<Scalar>(ConstView<Scalar>(x.derived()), function, serial_executor(), cached_panel);
  } else {
    Matrix<Scalar> out = large_matrix(x);
    function(Numbers<Scalar>(out.data(), out.size()));
    return out;
  }
}
}  // namespace detail

// And for whole matrices: each returns a new one.

template <class Derived>
[[nodiscard]] Matrix<typename Derived::Scalar> sigmoid(const Eigen::MatrixBase<Derived>& x) {
  return detail::changed(x, detail::sigmoid_in_place<typename Derived::Scalar>);
}

template <class Derived>
[[nodiscard]] Matrix<typename Derived::Scalar> silu(const Eigen::MatrixBase<Derived>& x) {
  return detail::changed(x, detail::silu_in_place<typename Derived::Scalar>);
}

template <class Derived>
[[nodiscard]] Matrix<typename Derived::Scalar> softplus(const Eigen::MatrixBase<Derived>& x) {
  return detail::changed(x, detail::softplus_in_place<typename Derived::Scalar>);
}

template <class Derived>
[[nodiscard]] Matrix<typename Derived::Scalar> gelu_scale(const Eigen::MatrixBase<Derived>& x) {
  return detail::changed(x, detail::gelu_scale_in_place<typename Derived::Scalar>);
}

template <class Derived>
[[nodiscard]] Matrix<typename Derived::Scalar> sqrt_one_minus_square(const Eigen::MatrixBase<Derived>& log_a) {
  return detail::changed(log_a, detail::sqrt_one_minus_square_in_place<typename Derived::Scalar>);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
