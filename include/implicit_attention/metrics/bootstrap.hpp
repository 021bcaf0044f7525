// Means over texts with confidence intervals.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/metrics/random_numbers.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A mean and its confidence interval.
struct MeanInterval {
  double mean = std::numeric_limits<double>::quiet_NaN();
  double low = std::numeric_limits<double>::quiet_NaN();
  double high = std::numeric_limits<double>::quiet_NaN();
  Index count = 0;  ///< numbers that the mean is of: those that were not NaN
};

/// The mean of the numbers, NaN (a metric not defined for a text) left out, and its percentile bootstrap interval (Efron & Tibshirani
/// 1993): `resamples` times as many numbers are drawn with replacement, and the middle `confidence` of their means is the interval.
/// Seeded: the same numbers and seed give the same interval everywhere. One number: an interval of no width. None: NaN, count 0.
[[nodiscard]] inline MeanInterval bootstrap_mean(const std::vector<double>& numbers, std::uint64_t seed, Index resamples = 1000,
                                                 double confidence = 0.95) {
  if (resamples <= 0) raise(ErrorKind::value, message("bootstrap: ", resamples, " resamples, expected at least one"));
  if (!(confidence > 0 && confidence < 1))
    raise(ErrorKind::value, message("bootstrap: confidence ", confidence, ", expected between 0 and 1"));
  std::vector<double> known;
  for (const double number : numbers)
    if (!std::isnan(number)) known.push_back(number);
  MeanInterval result;
  result.count = static_cast<Index>(known.size());
  if (known.empty()) return result;
  const auto count = static_cast<double>(known.size());
  double sum = 0;
  for (const double number : known) sum += number;
  result.mean = sum / count;
  std::mt19937_64 engine(seed);
  std::vector<double> means;
  for (Index resample = 0; resample < resamples; ++resample) {
    double total = 0;
    for (std::size_t i = 0; i < known.size(); ++i) total += known[detail::uniform_index(engine, known.size())];
    means.push_back(total / count);
  }
  std::sort(means.begin(), means.end());
  const auto quantile = [&](double share) {  // linear between the two nearest
    const double place = share * static_cast<double>(means.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, means.size() - 1);
    return means[below] + (place - static_cast<double>(below)) * (means[above] - means[below]);
  };
  result.low = quantile((1 - confidence) / 2);
  result.high = quantile((1 + confidence) / 2);
  return result;
}

IMPLICIT_ATTENTION_NAMESPACE_END
