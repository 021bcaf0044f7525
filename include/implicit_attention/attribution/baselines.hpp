// The usual baselines: gradient x input, integrated gradients, leave-one-out, random scores. The caller passes the model as callables.
#pragma once

#include <algorithm>
#include <array>
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
/// `value_at(point)` the number itself: sum(scores) + result.baseline == result.explained up to the quadrature's error. A model with norms
/// sees only the direction of its input near zero, so that from there the integrand is concentrated near t = 0, and evenly spread points
/// miss it: use integrated_gradients_within, which refines until the gap is small.
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

namespace detail {

/// A panel of the path: its ends, its share of the scores, and how far the two rules differ on it.
template <Real Scalar>
struct PathPanel {
  double begin = 0, end = 1;
  RowVector<Scalar> scores;
  Scalar error = 0;
};

/// Kronrod's seven points with Gauss's three among them (Laurie 1997), on -1..1: half of the symmetric pairs, then the middle.
inline constexpr std::array<double, 4> kronrod_points = {0.960491268708020283, 0.774596669241483377, 0.434243749346802558, 0.0};
inline constexpr std::array<double, 4> kronrod_weights = {0.104656226026467265, 0.268488089868333441, 0.401397414775962223,
                                                          0.450916538658474142};
inline constexpr std::array<double, 4> gauss_weights = {0.0, 5.0 / 9.0, 0.0, 8.0 / 9.0};

}  // namespace detail

/// When an integral counts as converged, and how many gradients it may take.
struct IntegrationLimits {
  double tolerance = 0.01;  ///< of |explained - baseline|: the completeness gap; and of the largest score: the estimated error of each
  Index most_points = 700;  ///< gradients computed at most; beyond, result.converged is false
};

/// The same integral to a tolerance: panels that become narrower towards the baseline, each by Kronrod's rule of seven points, and the worst
/// of them halved until scores are complete, |sum(scores) + baseline - explained| <= tolerance |explained - baseline|, and their estimated
/// errors are as small. Where that takes too many points, result.converged is false; the gap is there to be read either way.
template <Real Scalar, std::invocable<const Matrix<Scalar>&> ValueAt, std::invocable<const Matrix<Scalar>&> GradientAt>
[[nodiscard]] Attribution<Scalar> integrated_gradients_within(ConstView<Scalar> input, ConstView<Scalar> baseline, const ValueAt& value_at,
                                                              const GradientAt& gradient_at, Index position,
                                                              const IntegrationLimits& limits = {}) {
  check_shape("integrated gradients", "baseline", baseline, input.rows(), input.cols(), "(tokens, width), as the input");
  detail::check_position("integrated gradients", position, input.rows());
  if (!(limits.tolerance > 0))
    raise(ErrorKind::value, message("integrated gradients: the tolerance is ", limits.tolerance, ", expected above 0"));
  const Matrix<Scalar> difference = input - baseline;
  Attribution<Scalar> result;
  result.position = position;
  result.explained = value_at(Matrix<Scalar>(input));
  result.baseline = value_at(Matrix<Scalar>(baseline));
  Matrix<Scalar> point(input.rows(), input.cols()), gradient(input.rows(), input.cols());
  const auto integrate = [&](double begin, double end) {
    detail::PathPanel<Scalar> panel{begin, end, RowVector<Scalar>::Zero(input.rows()), Scalar(0)};
    RowVector<Scalar> coarse = RowVector<Scalar>::Zero(input.rows());
    for (std::size_t k = 0; k < detail::kronrod_points.size(); ++k)
      for (const double side : {-1.0, 1.0}) {
        if (k + 1 == detail::kronrod_points.size() && side > 0) continue;  // the middle once
        const double t = 0.5 * (begin + end) + side * 0.5 * (end - begin) * detail::kronrod_points[k];
        point = baseline + static_cast<Scalar>(t) * difference;
        gradient = gradient_at(std::as_const(point));
        check_shape("integrated gradients", "the gradient", gradient, input.rows(), input.cols(), "(tokens, width), as the input");
        detail::check_finite("integrated gradients", "the gradient", gradient);
        const RowVector<Scalar> along = difference.cwiseProduct(gradient).rowwise().sum().transpose();
        panel.scores += static_cast<Scalar>(0.5 * (end - begin) * detail::kronrod_weights[k]) * along;
        coarse += static_cast<Scalar>(0.5 * (end - begin) * detail::gauss_weights[k]) * along;
        ++result.points;
      }
    panel.error = (panel.scores - coarse).cwiseAbs().maxCoeff();
    return panel;
  };
  std::vector<detail::PathPanel<Scalar>> panels;
  double end = 1;
  for (int k = 0; k < 6; ++k, end /= 4) panels.push_back(integrate(end / 4, end));
  panels.push_back(integrate(0, end));
  while (true) {
    result.scores = RowVector<Scalar>::Zero(input.rows());
    Scalar error = 0;
    for (const detail::PathPanel<Scalar>& panel : panels) {
      result.scores += panel.scores;
      error += panel.error;
    }
    const Scalar gap = std::abs(result.scores.sum() + result.baseline - result.explained),
                 tolerance = static_cast<Scalar>(limits.tolerance);
    // The coarse rule's error, which is what the difference shows, is far above that of the fine one.
    result.converged = gap <= tolerance * std::abs(result.explained - result.baseline) &&
                       error <= Scalar(5) * tolerance * result.scores.cwiseAbs().maxCoeff();
    if (result.converged || result.points + 14 > limits.most_points) return result;
    const auto worst = std::max_element(panels.begin(), panels.end(), [](const auto& a, const auto& b) { return a.error < b.error; });
    const double begin = worst->begin, last = worst->end, middle = 0.5 * (begin + last);
    *worst = integrate(begin, middle);
    panels.push_back(integrate(middle, last));
  }
}

/// Leave-one-out: scores[j] = value with all tokens - value without token j; positive if the token speaks for what is explained.
/// It takes one run for each token up to `position`; later tokens cannot matter to a causal model and get 0. `seen`: how many tokens matter
/// where that is another number; -1: position + 1. How a token is removed is up to the caller: `value_without(j)` gives the number explained
/// without it.
template <Real Scalar, std::invocable<Index> ValueWithout>
[[nodiscard]] Attribution<Scalar> leave_one_out(Index tokens, Scalar value, const ValueWithout& value_without, Index position,
                                                const Executor& executor = serial_executor(), Index seen = -1) {
  detail::check_position("leave-one-out", position, tokens);
  Attribution<Scalar> result;
  result.position = position;
  result.explained = value;
  result.scores = RowVector<Scalar>::Zero(tokens);
  executor(seen < 0 ? position + 1 : seen, [&](Index token) { result.scores[token] = value - static_cast<Scalar>(value_without(token)); });
  detail::check_finite("leave-one-out", "the difference", result.scores);
  return result;
}

/// Random scores, uniform in 0..1, the same for the same seed on every machine; 0 after `position`, or beyond the first `seen` tokens.
template <Real Scalar>
[[nodiscard]] Attribution<Scalar> random_attribution(Index tokens, Index position, std::uint64_t seed, Index seen = -1) {
  detail::check_position("random attribution", position, tokens);
  Attribution<Scalar> result;
  result.position = position;
  result.scores = RowVector<Scalar>::Zero(tokens);
  std::mt19937_64 engine(seed);  // its numbers are fixed by the standard; those of the distributions are not
  for (Index token = 0; token < (seen < 0 ? position + 1 : seen); ++token)
    result.scores[token] = static_cast<Scalar>(static_cast<double>(engine() >> 11) * 0x1p-53);
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
