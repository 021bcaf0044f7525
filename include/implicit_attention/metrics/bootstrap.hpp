// Means over texts with confidence intervals.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/random_numbers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A mean and its confidence interval.
struct MeanInterval {
  double mean = std::numeric_limits<double>::quiet_NaN();
  double low = std::numeric_limits<double>::quiet_NaN();
  double high = std::numeric_limits<double>::quiet_NaN();
  Index count = 0;  ///< numbers that the mean is of: those that were not NaN
};

/// The mean of the numbers, NaN (a metric not defined for a text) left out, and its percentile bootstrap interval (Efron & Tibshirani
/// 1993) over groups: numbers of one group (several outputs of one text) are not independent, so whole groups are drawn with replacement,
/// as many as there are, `resamples` times, and the middle `confidence` of the means over all that was drawn is the interval. `groups` says
/// which group a number is of, by any labels. Groups whose numbers are all NaN take no part.
/// Seeded: the same numbers and seed give the same interval everywhere. One group: an interval of no width. None: NaN, count 0. A mean that
/// is not finite, as that of an infinity, has no interval: NaN.
[[nodiscard]] inline MeanInterval bootstrap_mean_by_group(const std::vector<double>& numbers, const std::vector<Index>& groups,
                                                          std::uint64_t seed, Index resamples = 1000, double confidence = 0.95) {
  if (groups.size() != numbers.size())
    detail::raise(ErrorKind::shape, "bootstrap: ", groups.size(), " groups, expected ", numbers.size(), ", one per number");
  if (resamples <= 0) detail::raise(ErrorKind::value, "bootstrap: ", resamples, " resamples, expected at least one");
  if (!(confidence > 0 && confidence < 1))
    detail::raise(ErrorKind::value, "bootstrap: confidence ", confidence, ", expected between 0 and 1");
  struct Group {
    double sum = 0, count = 0;
  };
  std::vector<Group> known;
  std::map<Index, std::size_t> place_of;
  MeanInterval result;
  double sum = 0;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (std::isnan(numbers[i])) continue;
    const auto [place, fresh] = place_of.emplace(groups[i], known.size());
    if (fresh) known.emplace_back();
    known[place->second].sum += numbers[i];
    known[place->second].count += 1;
    sum += numbers[i];
    ++result.count;
  }
  if (known.empty()) return result;
  result.mean = sum / static_cast<double>(result.count);
  if (!std::isfinite(result.mean)) return result;
  detail::RandomEngine engine(seed);
  std::vector<double> means;
  for (Index resample = 0; resample < resamples; ++resample) {
    Group drawn;
    for (std::size_t i = 0; i < known.size(); ++i) {
      const Group& group = known[detail::uniform_index(engine, known.size())];
      drawn.sum += group.sum;
      drawn.count += group.count;
    }
    means.push_back(drawn.sum / drawn.count);
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

/// The same where every number is a group of its own. One number: an interval of no width.
[[nodiscard]] inline MeanInterval bootstrap_mean(const std::vector<double>& numbers, std::uint64_t seed, Index resamples = 1000,
                                                 double confidence = 0.95) {
  std::vector<Index> groups(numbers.size());
  std::iota(groups.begin(), groups.end(), Index{0});
  return bootstrap_mean_by_group(numbers, groups, seed, resamples, confidence);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
