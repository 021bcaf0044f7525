// Reductions over channels by their definition.
#pragma once

#include <cmath>
#include <vector>

#include <implicit_attention/operator/reduction.hpp>

namespace test_support {

/// One entry of a reduced map from the channels' entries, weighted already. NaN where one of them is.
inline double reduced_by_definition(implicit_attention::ReductionKind kind, const std::vector<double>& values) {
  using implicit_attention::ReductionKind;
  double sum = 0, most = values.front(), least = values.front();
  for (const double value : values) {
    if (std::isnan(value)) return value;
    switch (kind) {
      case ReductionKind::mean:
        sum += value;
        break;
      case ReductionKind::mean_abs:
        sum += std::abs(value);
        break;
      case ReductionKind::mean_positive:
        sum += value > 0 ? value : 0;
        break;
      case ReductionKind::max:
        most = value > most ? value : most;
        break;
      case ReductionKind::min:
        least = value < least ? value : least;
        break;
    }
  }
  return kind == ReductionKind::max ? most : kind == ReductionKind::min ? least : sum / static_cast<double>(values.size());
}

}  // namespace test_support
