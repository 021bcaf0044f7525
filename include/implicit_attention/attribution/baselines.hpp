// The usual baselines: gradient x input, integrated gradients, leave-one-out, random scores. The caller passes the model as callables.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/result.hpp>
#include <implicit_attention/core/executor.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Gradient x input (Shrikumar et al. 2016, arXiv 1605.01713): scores[j] = sum over width of embeddings[j] * gradient[j], signed: positive
/// speaks for what is explained. Both (tokens, width), the gradient with respect to the embeddings.
template <Real Scalar>
[[nodiscard]] Attribution<Scalar> gradient_x_input(ConstView<Scalar> embeddings, ConstView<Scalar> gradient, Index position) {
  check_shape("gradient x input", "gradient", gradient, embeddings.rows(), embeddings.cols(), "(tokens, width), as the embeddings");
  detail::check_position("gradient x input", position, embeddings.rows());
  detail::check_finite("gradient x input", "the embeddings", embeddings);
  detail::check_finite("gradient x input", "the gradient", gradient);
  Attribution<Scalar> result;
  result.position = position;
  result.scores = embeddings.cwiseProduct(gradient).rowwise().sum().transpose();
  return result;
}

namespace detail {

/// Points and weights of Gauss-Legendre quadrature on 0..1, by Newton's iteration on the Legendre polynomial.
struct Quadrature {
  std::vector<double> points, weights;
};
[[nodiscard]] inline Quadrature gauss_legendre(Index count) {
  Quadrature quadrature;
  for (Index k = 0; k < count; ++k) {
    double x = std::cos(3.14159265358979323846 * (static_cast<double>(k) + 0.75) / (static_cast<double>(count) + 0.5)), slope = 1;
    for (int iteration = 0; iteration < 100; ++iteration) {
      double before = 1, value = x;  // P_0, P_1
      for (Index n = 1; n < count; ++n) {
        const double order = static_cast<double>(n);
        before = std::exchange(value, ((2 * order + 1) * x * value - order * before) / (order + 1));
      }
      slope = static_cast<double>(count) * (x * value - before) / (x * x - 1);
      const double step = value / slope;
      x -= step;
      if (std::abs(step) < 1e-15) break;
    }
    quadrature.points.push_back(0.5 * (1 - x));
    quadrature.weights.push_back(1 / ((1 - x * x) * slope * slope));
  }
  return quadrature;
}

}  // namespace detail

/// Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365): scores[j] = sum over width of
/// (input - baseline)[j] * integral over t in 0..1 of gradient(baseline + t (input - baseline))[j], by Gauss-Legendre quadrature with
/// `steps` points. `gradient_at(point)` gives the gradient (tokens, width) of what is explained at a point (tokens, width), and
/// `value_at(point)` the number itself: sum(scores) + result.baseline == result.explained up to the quadrature's error. Check that gap:
/// from a zero baseline the path through a trained model with gates and norms can be rough (with 32 steps gaps larger than the number
/// explained were measured on trained Mamba and Griffin models, 1e-5 of it on RWKV-4); raise `steps`, or begin at another baseline.
template <Real Scalar, std::invocable<const Matrix<Scalar>&> ValueAt, std::invocable<const Matrix<Scalar>&> GradientAt>
[[nodiscard]] Attribution<Scalar> integrated_gradients(ConstView<Scalar> input, ConstView<Scalar> baseline, const ValueAt& value_at,
                                                       const GradientAt& gradient_at, Index position, Index steps = 32) {
  check_shape("integrated gradients", "baseline", baseline, input.rows(), input.cols(), "(tokens, width), as the input");
  detail::check_position("integrated gradients", position, input.rows());
  if (steps < 1) raise(ErrorKind::value, message("integrated gradients: ", steps, " steps, expected at least one"));
  const Matrix<Scalar> difference = input - baseline;
  const detail::Quadrature quadrature = detail::gauss_legendre(steps);
  Attribution<Scalar> result;
  result.position = position;
  result.scores = RowVector<Scalar>::Zero(input.rows());
  Matrix<Scalar> point(input.rows(), input.cols()), gradient(input.rows(), input.cols());
  for (std::size_t step = 0; step < quadrature.points.size(); ++step) {
    point = baseline + static_cast<Scalar>(quadrature.points[step]) * difference;
    gradient = gradient_at(std::as_const(point));
    check_shape("integrated gradients", "the gradient", gradient, input.rows(), input.cols(), "(tokens, width), as the input");
    detail::check_finite("integrated gradients", "the gradient", gradient);
    result.scores += static_cast<Scalar>(quadrature.weights[step]) * difference.cwiseProduct(gradient).rowwise().sum().transpose();
  }
  result.explained = value_at(Matrix<Scalar>(input));
  result.baseline = value_at(Matrix<Scalar>(baseline));
  return result;
}

/// Leave-one-out: scores[j] = value with all tokens - value without token j; positive if the token speaks for what is explained.
/// It takes one run for each token up to `position`; later tokens cannot matter and get 0. How a token is removed is up to the caller:
/// `value_without(j)` gives the number explained without it.
template <Real Scalar, std::invocable<Index> ValueWithout>
[[nodiscard]] Attribution<Scalar> leave_one_out(Index tokens, Scalar value, const ValueWithout& value_without, Index position,
                                                const Executor& executor = serial_executor()) {
  detail::check_position("leave-one-out", position, tokens);
  Attribution<Scalar> result;
  result.position = position;
  result.explained = value;
  result.scores = RowVector<Scalar>::Zero(tokens);
  executor(position + 1, [&](Index token) { result.scores[token] = value - static_cast<Scalar>(value_without(token)); });
  detail::check_finite("leave-one-out", "the difference", result.scores);
  return result;
}

/// Random scores, uniform in 0..1, the same for the same seed on every machine; 0 after `position`.
template <Real Scalar>
[[nodiscard]] Attribution<Scalar> random_attribution(Index tokens, Index position, std::uint64_t seed) {
  detail::check_position("random attribution", position, tokens);
  Attribution<Scalar> result;
  result.position = position;
  result.scores = RowVector<Scalar>::Zero(tokens);
  std::mt19937_64 engine(seed);  // its numbers are fixed by the standard; those of the distributions are not
  for (Index token = 0; token <= position; ++token)
    result.scores[token] = static_cast<Scalar>(static_cast<double>(engine() >> 11) * 0x1p-53);
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
