// Numbers that are not finite, found and named.
#pragma once

#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/lanes.hpp>
#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Whether `count` neighbouring numbers are finite. Vectorised, as Eigen's allFinite is not. A finite sum tells that all are; a sum may
/// overflow though all are finite, and only then is each one asked.
template <class Scalar>
[[nodiscard]] bool all_finite(const Scalar* numbers, Index count) {
  const ConstNumbers<Scalar> all(numbers, count);
  return all.sum() * Scalar(0) == Scalar(0) || (all * Scalar(0)).sum() == Scalar(0);
}
template <class Scalar>
[[nodiscard]] bool all_finite(ConstView<Scalar> numbers) {
  if (numbers.size() == 0) return true;
  if (numbers.outerStride() == numbers.cols()) return all_finite(numbers.data(), numbers.size());
  for (Index row = 0; row < numbers.rows(); ++row)
    if (!all_finite(numbers.data() + row * numbers.outerStride(), numbers.cols())) return false;
  return true;
}
template <class Derived>
[[nodiscard]] bool all_finite(const Eigen::DenseBase<Derived>& numbers) {
  if constexpr (viewable<Derived>)
    return all_finite(ConstView<typename Derived::Scalar>(numbers.derived()));
  else
    return (numbers.derived().array() * typename Derived::Scalar(0)).sum() == typename Derived::Scalar(0);
}

/// Row and column of the first NaN or infinity, row by row.
template <class Derived>
[[nodiscard]] std::optional<std::pair<Index, Index>> first_not_finite(const Eigen::DenseBase<Derived>& numbers) {
  if (all_finite(numbers)) return {};
  for (Index row = 0; row < numbers.rows(); ++row)
    for (Index column = 0; column < numbers.cols(); ++column)
      if (!std::isfinite(numbers(row, column))) return std::pair{row, column};
  return {};
}

template <class Scalar>
[[nodiscard]] std::string_view not_finite_name(Scalar value) {
  return std::isnan(value) ? "NaN" : "an infinity";
}

/// Fails on a NaN or an infinity, naming where it is.
template <class Derived>
void check_finite(std::string_view who, std::string_view what, const Eigen::DenseBase<Derived>& numbers) {
  if (const auto place = first_not_finite(numbers))
    raise(ErrorKind::value, who, ": ", not_finite_name(numbers(place->first, place->second)), " in ", what, " at (", place->first, ", ",
          place->second,
          "), expected finite numbers; are there NaN in the weights or the input, or factors in the configuration that are too large?");
}

/// The same of an activation, (tokens, channels).
template <class Derived>
void check_finite_activation(std::string_view who, std::string_view what, const Eigen::DenseBase<Derived>& numbers) {
  if (const auto place = first_not_finite(numbers))
    raise(ErrorKind::value, who, ": ", not_finite_name(numbers(place->first, place->second)), " in ", what, " at token ", place->first,
          ", channel ", place->second, ", expected finite numbers");
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
