// Means with intervals as tables and JSON show them.
#pragma once

#include <cmath>
#include <string>

#include <nlohmann/json.hpp>

#include <implicit_attention/metrics/bootstrap.hpp>

#include "numbers.hpp"

namespace implicit_attention::examples {

/// `0.412 ±0.014`: half of the interval's width. Empty where there is no mean; a mean without an interval stands alone.
[[nodiscard]] inline std::string interval_cell(const MeanInterval& interval, int decimals) {
  if (interval.count == 0 || std::isnan(interval.mean)) return "";
  if (std::isnan(interval.low)) return fixed(interval.mean, decimals);
  return fixed(interval.mean, decimals) + " ±" + fixed((interval.high - interval.low) / 2, decimals);
}

/// `{"mean": ..., "low": ..., "high": ..., "texts": 300}`, null for what is not finite; `counted` names what the numbers are of.
[[nodiscard]] inline nlohmann::ordered_json interval_json(const MeanInterval& interval, const char* counted = "texts") {
  const auto number = [](double value) { return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr); };
  return {{"mean", number(interval.mean)}, {"low", number(interval.low)}, {"high", number(interval.high)}, {counted, interval.count}};
}

}  // namespace implicit_attention::examples
