// The usual baselines: gradient x input, integrated gradients, leave-one-out, random scores. The caller passes the model as callables.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/attribution/result.hpp>
#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/random_numbers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
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

/// Gradients at several points at a time, for a model that runs them side by side.
template <Real Scalar>
struct GradientsAt {
  Index together = 1;                                                                               ///< points at a time, at most
  std::function<std::vector<Matrix<Scalar>>(const std::vector<Matrix<Scalar>>& points)> gradients;  ///< one for each point, in order
};

/// Gives the gradient (tokens, width) at a point (tokens, width): a callable, or a GradientsAt.
// clang-format off
template <class Source, class Scalar>
concept PathGradients = std::same_as<Source, GradientsAt<Scalar>> || std::is_invocable_v<const Source&, const Matrix<Scalar>&>;
// clang-format on

namespace detail {

/// What each token adds per unit of t, (tokens), at points t of the straight path from the baseline: (difference . gradient) of its row.
template <Real Scalar, PathGradients<Scalar> Source>
[[nodiscard]] std::vector<RowVector<Scalar>> slopes_along(ConstView<Scalar> baseline, const Matrix<Scalar>& difference,
                                                          const std::vector<double>& places, const Source& gradient_at) {
  constexpr bool several = std::same_as<Source, GradientsAt<Scalar>>;
  std::size_t together = 1;
  if constexpr (several) together = static_cast<std::size_t>(std::max<Index>(1, gradient_at.together));
  std::vector<RowVector<Scalar>> slopes;
  for (std::size_t begin = 0; begin < places.size(); begin += together) {
    std::vector<Matrix<Scalar>> points, gradients;
    for (std::size_t k = begin; k < std::min(begin + together, places.size()); ++k)
      points.push_back(baseline + static_cast<Scalar>(places[k]) * difference);
    if constexpr (several)
      gradients = gradient_at.gradients(points);
    else
      gradients.push_back(gradient_at(std::as_const(points.front())));
    if (gradients.size() != points.size())
      raise(ErrorKind::shape, "integrated gradients: ", static_cast<Index>(gradients.size()), " gradients were returned for ",
            static_cast<Index>(points.size()), " points, expected one for each");
    for (const Matrix<Scalar>& gradient : gradients) {
      check_shape("integrated gradients", "the gradient", gradient, difference.rows(), difference.cols(), "(tokens, width), as the input");
      check_finite("integrated gradients", "the gradient", gradient);
      slopes.push_back(difference.cwiseProduct(gradient).rowwise().sum().transpose());
    }
  }
  return slopes;
}

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
/// `steps` points. `gradient_at(point)` gives the gradient (tokens, width) of what is explained at a point (tokens, width), or a
/// GradientsAt those at several, and `value_at(point)` the number itself: sum(scores) + result.baseline == result.explained up to the
/// quadrature's error. A model with norms sees only the direction of its input near zero, so that from there the integrand is concentrated
/// near t = 0, and evenly spread points miss it: use integrated_gradients_within, which refines until the gap is small.
template <Real Scalar, std::invocable<const Matrix<Scalar>&> ValueAt, PathGradients<Scalar> GradientAt>
[[nodiscard]] Attribution<Scalar> integrated_gradients(ConstView<Scalar> input, ConstView<Scalar> baseline, const ValueAt& value_at,
                                                       const GradientAt& gradient_at, Index position, Index steps = 32) {
  check_shape("integrated gradients", "baseline", baseline, input.rows(), input.cols(), "(tokens, width), as the input");
  detail::check_position("integrated gradients", position, input.rows());
  if (steps < 1) detail::raise(ErrorKind::value, "integrated gradients: ", steps, " steps, expected at least one");
  const Matrix<Scalar> difference = input - baseline;
  const detail::Quadrature quadrature = detail::gauss_legendre(steps);
  Attribution<Scalar> result;
  result.position = position;
  result.scores = RowVector<Scalar>::Zero(input.rows());
  const std::vector<RowVector<Scalar>> slopes = detail::slopes_along<Scalar>(baseline, difference, quadrature.points, gradient_at);
  for (std::size_t step = 0; step < slopes.size(); ++step) result.scores += static_cast<Scalar>(quadrature.weights[step]) * slopes[step];
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

/// The same integral to a tolerance: panels that become narrower towards the baseline, each by Kronrod's rule of seven points, and the
/// worst of them halved until scores are complete, |sum(scores) + baseline - explained| <= tolerance |explained - baseline|, and their
/// estimated errors are as small. Where that takes too many points, result.converged is false; the gap is there to be read either way.
template <Real Scalar, std::invocable<const Matrix<Scalar>&> ValueAt, PathGradients<Scalar> GradientAt>
[[nodiscard]] Attribution<Scalar> integrated_gradients_within(ConstView<Scalar> input, ConstView<Scalar> baseline, const ValueAt& value_at,
                                                              const GradientAt& gradient_at, Index position,
                                                              const IntegrationLimits& limits = {}) {
  check_shape("integrated gradients", "baseline", baseline, input.rows(), input.cols(), "(tokens, width), as the input");
  detail::check_position("integrated gradients", position, input.rows());
  if (!(limits.tolerance > 0))
    detail::raise(ErrorKind::value, "integrated gradients: the tolerance is ", limits.tolerance, ", expected above 0");
  const Matrix<Scalar> difference = input - baseline;
  Attribution<Scalar> result;
  result.position = position;
  result.explained = value_at(Matrix<Scalar>(input));
  result.baseline = value_at(Matrix<Scalar>(baseline));
  // Every panel's seven points: pairs around the middle, the middle last.
  const auto weight_of = [](std::size_t point) { return point / 2; };
  const auto place_in = [&](const detail::PathPanel<Scalar>& panel, std::size_t point) {
    const double side = point % 2 == 0 ? -1 : 1;
    return 0.5 * (panel.begin + panel.end) + side * 0.5 * (panel.end - panel.begin) * detail::kronrod_points[weight_of(point)];
  };
  constexpr std::size_t points = 2 * detail::kronrod_points.size() - 1;
  const auto integrate = [&](std::vector<detail::PathPanel<Scalar>> panels) {
    std::vector<double> places;
    for (const detail::PathPanel<Scalar>& panel : panels)
      for (std::size_t point = 0; point < points; ++point) places.push_back(place_in(panel, point));
    const std::vector<RowVector<Scalar>> slopes = detail::slopes_along<Scalar>(baseline, difference, places, gradient_at);
    result.points += static_cast<Index>(places.size());
    auto slope = slopes.begin();
    for (detail::PathPanel<Scalar>& panel : panels) {
      panel.scores = RowVector<Scalar>::Zero(input.rows());
      RowVector<Scalar> coarse = RowVector<Scalar>::Zero(input.rows());
      for (std::size_t point = 0; point < points; ++point, ++slope) {
        panel.scores += static_cast<Scalar>(0.5 * (panel.end - panel.begin) * detail::kronrod_weights[weight_of(point)]) * *slope;
        coarse += static_cast<Scalar>(0.5 * (panel.end - panel.begin) * detail::gauss_weights[weight_of(point)]) * *slope;
      }
      panel.error = (panel.scores - coarse).cwiseAbs().maxCoeff();
    }
    return panels;
  };
  std::vector<detail::PathPanel<Scalar>> panels;
  double end = 1;
  for (int k = 0; k < 6; ++k, end /= 4) panels.push_back({end / 4, end, {}, Scalar(0)});
  panels.push_back({0, end, {}, Scalar(0)});
  panels = integrate(std::move(panels));
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
    std::vector<detail::PathPanel<Scalar>> halves = integrate({{begin, middle, {}, Scalar(0)}, {middle, last, {}, Scalar(0)}});
    *worst = std::move(halves[0]);
    panels.push_back(std::move(halves[1]));
  }
}

/// Leave-one-out: scores[j] = value with all tokens - value without token j; positive if the token speaks for what is explained.
/// It takes one run for each token up to `position`; later tokens cannot matter to a causal model and get 0. `seen`: how many tokens matter
/// where that is another number; -1: position + 1. How a token is removed is up to the caller: `value_without(j)` gives the number
/// explained without it.
template <Real Scalar, std::invocable<Index> ValueWithout>
[[nodiscard]] Attribution<Scalar> leave_one_out(Index tokens, Scalar value, const ValueWithout& value_without, Index position,
                                                const Executor& executor = serial_executor(), Index seen = -1) {
  detail::check_position("leave-one-out", position, tokens);
  Attribution<Scalar> result;
  result.position = position;
  result.explained = value;
  result.scores = RowVector<Scalar>::Zero(tokens);
  detail::run_loop(executor, seen < 0 ? position + 1 : seen,
                   [&](Index token) { result.scores[token] = value - static_cast<Scalar>(value_without(token)); });
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
  detail::RandomEngine engine(seed);
  for (Index token = 0; token < (seen < 0 ? position + 1 : seen); ++token)
    result.scores[token] = static_cast<Scalar>(detail::uniform(engine));
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
