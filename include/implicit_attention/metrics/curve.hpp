// Curves over a share of tokens, and the areas under them.
#pragma once

#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include <implicit_attention/metrics/scores.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A value per share of tokens, shares rising.
struct Curve {
  std::vector<double> fractions;  ///< in [0, 1]
  std::vector<double> values;
};

/// How an area becomes a number that does not depend on where the curve begins and ends. Papers give areas without saying which.
enum class AreaRule {
  trapezoid,  ///< sum over steps of width * (left + right) / 2, divided by the whole width: the curve's mean height
  mean        ///< mean of the values: every step counts the same, both ends fully
};

/// The area under a curve. For a curve of one point it is that point's value, by both rules. Fails (shape) on a curve without points.
[[nodiscard]] inline double area(const Curve& curve, AreaRule rule = AreaRule::trapezoid) {
  const std::size_t points = curve.values.size();
  if (points == 0 || curve.fractions.size() != points)
    detail::raise(ErrorKind::shape, "area: the curve has ", curve.fractions.size(), " fractions and ", points,
                  " values, expected as many values as fractions, and at least one");
  double sum = 0;
  if (rule == AreaRule::mean) {
    for (const double value : curve.values) sum += value;
    return sum / static_cast<double>(points);
  }
  const double width = curve.fractions.back() - curve.fractions.front();
  if (points == 1 || width == 0) return area(curve, AreaRule::mean);
  for (std::size_t i = 1; i < points; ++i)
    sum += (curve.fractions[i] - curve.fractions[i - 1]) * (curve.values[i] + curve.values[i - 1]) / 2;
  return sum / width;
}

/// Where a curve is measured.
class Steps {
 public:
  /// After 0, 1, 2, ..., all tokens: fractions k/n. No rounding, n + 1 model runs.
  [[nodiscard]] static Steps each_token() { return Steps({}); }
  /// At these shares, rising, in [0, 1]; each takes the nearest whole number of tokens, halves up (a single token counts from 0.5 on).
  [[nodiscard]] static Steps at(std::vector<double> fractions) {
    if (fractions.empty()) detail::raise(ErrorKind::value, "Steps: there are no fractions, expected at least one in 0 to 1");
    for (std::size_t i = 0; i < fractions.size(); ++i)
      if (!(fractions[i] >= 0 && fractions[i] <= 1) || (i > 0 && fractions[i] <= fractions[i - 1]))
        detail::raise(ErrorKind::value, "Steps: fraction ", i, " is ", fractions[i], ", expected rising numbers in 0 to 1");
    return Steps(std::move(fractions));
  }
  /// 0.1, 0.2, ..., 0.9: the perturbation tests of arXiv 2403.01590, section 4.2.
  [[nodiscard]] static Steps tenths() { return at({0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}); }

  /// Fractions and numbers of tokens for a text of `tokens`.
  [[nodiscard]] std::vector<std::pair<double, Index>> of(Index tokens) const {
    std::vector<std::pair<double, Index>> steps;
    const auto n = static_cast<double>(tokens);
    if (fractions_.empty())
      for (Index count = 0; count <= tokens; ++count) steps.emplace_back(static_cast<double>(count) / n, count);
    // The small addition makes 0.29 * 50 = 14.5, which is 14.499999999999998 in binary, round up as it should.
    for (const double fraction : fractions_) steps.emplace_back(fraction, static_cast<Index>(std::floor(fraction * n + 0.5 + 1e-9)));
    return steps;
  }

 private:
  explicit Steps(std::vector<double> fractions) : fractions_(std::move(fractions)) {}
  std::vector<double> fractions_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
