// The elementary functions of the layers, accurate in their tails.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/finite.hpp>
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
/// log(1 + t) for 0 <= t <= 1, to rounding: 2 artanh(s) with s = t / (2 + t) <= 1/3, whose series gains a digit a term.
template <Real Scalar, int Count>
EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> log1p_up_to_one(const LaneNumbers<Scalar, Count>& t) {
  constexpr int terms = sizeof(Scalar) == sizeof(float) ? 8 : 17;
  const LaneNumbers<Scalar, Count> s = t / (t + Scalar(2)), square = s * s;
  LaneNumbers<Scalar, Count> sum = LaneRegister<Scalar, Count>::zero() + Scalar(1) / Scalar(2 * terms - 1);
  IMPLICIT_ATTENTION_UNROLL
  for (int k = terms - 1; k > 0; --k) sum = sum * square + Scalar(1) / Scalar(2 * k - 1);
  return Scalar(2) * s * sum;
}
/// softplus of numbers i .. i + Count - 1.
template <int Count, Real Scalar>
EIGEN_ALWAYS_INLINE void softplus_at(Numbers<Scalar> x, Index i) {
  const LaneNumbers<Scalar, Count> t = (-x.abs()).exp().template at<Count>(i), positive = x.max(Scalar(0)).template at<Count>(i);
  LaneRegister<Scalar, Count>::store(x.data() + i, positive + log1p_up_to_one<Scalar, Count>(t));
}
template <Real Scalar>
void softplus_in_place(Numbers<Scalar> x) {
  Index i = 0;
  for (; i + computed_lanes<Scalar> <= x.size(); i += computed_lanes<Scalar>) softplus_at<computed_lanes<Scalar>, Scalar>(x, i);
  for (; i < x.size(); ++i) softplus_at<1, Scalar>(x, i);
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
/// to = from, changed by function(numbers) a few rows at a time while they are in the nearest cache; in place where they are the same numbers.
template <Real Scalar, class Function>
void set_changed(View<Scalar> to, ConstView<Scalar> from, const Function& function) {
  const Index high = std::max<Index>(1, cached_panel / std::max<Index>(1, to.cols()));
  for (Index first = 0; first < to.rows(); first += high) {
    View<Scalar> rows(to.data() + first * to.cols(), std::min(high, to.rows() - first), to.cols());
    for (Index row = 0; row < rows.rows() && to.data() != from.data(); ++row)
      std::copy_n(from.data() + (first + row) * from.outerStride(), rows.cols(), rows.data() + row * rows.cols());
    function(Numbers<Scalar>(rows.data(), rows.size()));
  }
}
/// A new matrix of the same numbers, changed by function(numbers), through an executor.
template <Real Scalar, class Function>
[[nodiscard]] Matrix<Scalar> changed(ConstView<Scalar> x, const Function& function, const Executor& executor) {
  Matrix<Scalar> out = large_matrix<Scalar>(x.rows(), x.cols(), "an activation");
  for_row_panels(x.rows(), x.cols(), executor, [&](Index first, Index count) {
    set_changed<Scalar>(View<Scalar>(out.data() + first * x.cols(), count, x.cols()), x.middleRows(first, count), function);
  });
  return out;
}
/// The same on this thread; an expression is evaluated whole.
template <class Derived, class Function>
[[nodiscard]] Matrix<typename Derived::Scalar> changed(const Eigen::MatrixBase<Derived>& x, const Function& function) {
  using Scalar = typename Derived::Scalar;
  if constexpr (viewable<Derived> && bool(Derived::IsRowMajor)) {
    return changed<Scalar>(ConstView<Scalar>(x.derived()), function, serial_executor());
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

/// silu(x) / x, the activation as a scale: sigmoid(x), but NaN where x is infinite. There silu is infinite or NaN, and a scale of 1 or 0
/// would hide it.
template <class Derived>
[[nodiscard]] Matrix<typename Derived::Scalar> silu_scale(const Eigen::MatrixBase<Derived>& x) {
  using Scalar = typename Derived::Scalar;
  Matrix<Scalar> scale = sigmoid(x);
  if (detail::all_finite(x)) return scale;
  const Matrix<Scalar> numbers = x;
  detail::Numbers<Scalar>(scale.data(), scale.size()) += detail::ConstNumbers<Scalar>(numbers.data(), numbers.size()) * Scalar(0);
  return scale;
}

/// tanh(s) / s, given t = tanh(s): t / artanh(t), 1 at 0. Where t has been rounded to 1 or -1, what s was is lost: it is then taken for the
/// least that gives this, so that a cap that is saturated does not look as if nothing came through.
template <Real Scalar>
[[nodiscard]] Scalar soft_cap_scale(Scalar t) {
  const Scalar size = std::min(std::abs(t), Scalar(1) - std::numeric_limits<Scalar>::epsilon() / 2);
  return size == Scalar(0) ? Scalar(1) : size / std::atanh(size);
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
