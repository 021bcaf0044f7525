// How a value is joined to what is already there: for whole registers and for single numbers alike.
#pragma once

#include <algorithm>
#include <cmath>

#include <implicit_attention/kernels/lanes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

// A reducer is called with what is already there and a value, numbers or whole registers of numbers, and returns both joined. It also has
// - over(joined): the numbers of a register of joined values, joined into one number,
// - over_rows(rows, count): the same of `count` registers, at most as many as one has numbers, which stand one behind the other; behind
//   them stand zeros,
// - combine(a, b): two results joined,
// - sees_zeros: whether joining a zero changes anything.
// Joining a NaN gives NaN. A sum with an infinite value is infinite or NaN; where one could be hidden, by a positive part or another
// extreme, joining it gives NaN as well.
namespace detail {

struct Sum {
  static constexpr bool sees_zeros = false;
  template <class Scalar, int Width>
  static Scalar over(const Lanes<Scalar, Width>& values) {
    return values.sum();
  }
  template <int Width, class Scalar>
  static Lanes<Scalar, Width> over_rows(const Scalar* rows, Index count) {
    Lanes<Scalar, Width> sums = Lanes<Scalar, Width>::Zero();
    if constexpr (Width <= computed_lanes<Scalar>)  // else one is computed as several registers, which no shuffle crosses
      LaneRegister<Scalar, Width>::store(sums.data(), sums_of_rows<Scalar, Width>(rows));
    else
      for (Index k = 0; k < count; ++k) sums[k] = over(Lanes<Scalar, Width>(lanes<Width>(rows + k * Width)));
    return sums;
  }
  template <Real Scalar>
  static Scalar combine(Scalar a, Scalar b) {
    return a + b;
  }
};

struct Add : Sum {
  template <Real Scalar>
  Scalar operator()(Scalar old, Scalar value) const {
    return old + value;
  }
  template <class Scalar, int Width>
  Lanes<Scalar, Width> operator()(const Lanes<Scalar, Width>& old, const Lanes<Scalar, Width>& value) const {
    return old + value;
  }
};

struct AddAbsolute : Sum {
  template <Real Scalar>
  Scalar operator()(Scalar old, Scalar value) const {
    return old + std::abs(value);
  }
  template <class Scalar, int Width>
  Lanes<Scalar, Width> operator()(const Lanes<Scalar, Width>& old, const Lanes<Scalar, Width>& value) const {
    return old + value.abs();
  }
};

struct AddPositive : Sum {
  template <Real Scalar>
  Scalar operator()(Scalar old, Scalar value) const {
    return old + (std::max(value, Scalar(0)) + value * Scalar(0));
  }
  template <class Scalar, int Width>
  Lanes<Scalar, Width> operator()(const Lanes<Scalar, Width>& old, const Lanes<Scalar, Width>& value) const {
    return old + (value.max(Scalar(0)) + value * Scalar(0));
  }
};

/// `joined`, but NaN where the value is not finite: a maximum keeps a NaN that is already there, but may drop what is in the new value.
template <class Scalar, int Count>
EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> with_nan_of_register(const LaneNumbers<Scalar, Count>& value,
                                                                    const LaneNumbers<Scalar, Count>& joined) {
  const LaneNumbers<Scalar, Count> zero = value - value;  // or NaN
#if defined(__GNUC__)
  if constexpr (Count > 1) {
    const auto nan = zero != zero;  // all bits, which are a NaN, or none
    return reinterpret_cast<LaneNumbers<Scalar, Count>>(reinterpret_cast<decltype(zero != zero)>(joined) | nan);
  }
#endif
  return choose<Scalar, Count>(zero != zero, zero, joined);
}
template <class Scalar, int Width>
EIGEN_ALWAYS_INLINE Lanes<Scalar, Width> with_nan_of(const Lanes<Scalar, Width>& value, const Lanes<Scalar, Width>& joined) {
  Lanes<Scalar, Width> out;
  IMPLICIT_ATTENTION_UNROLL
  for (int i = 0; i < out.registers; ++i)
    out.in_register(i) = with_nan_of_register<Scalar, Lanes<Scalar, Width>::register_numbers>(value.in_register(i), joined.in_register(i));
  return out;
}

/// What a register's extreme is made of is looked at number by number: so are several registers.
template <class Reducer>
struct Extreme {
  template <int Width, class Scalar>
  static Lanes<Scalar, Width> over_rows(const Scalar* rows, Index count) {
    Lanes<Scalar, Width> joined = Lanes<Scalar, Width>::Zero();
    for (Index k = 0; k < count; ++k) joined[k] = Reducer::over(Lanes<Scalar, Width>(lanes<Width>(rows + k * Width)));
    return joined;
  }
};

struct Largest : Extreme<Largest> {
  static constexpr bool sees_zeros = true;
  template <Real Scalar>
  Scalar operator()(Scalar old, Scalar value) const {
    return std::isfinite(value) ? std::max(old, value) : value - value;
  }
  template <class Scalar, int Width>
  Lanes<Scalar, Width> operator()(const Lanes<Scalar, Width>& old, const Lanes<Scalar, Width>& value) const {
    return with_nan_of<Scalar, Width>(value, Lanes<Scalar, Width>(old.max(value)));
  }
  template <class Scalar, int Width>
  static Scalar over(const Lanes<Scalar, Width>& values) {
    return largest_lane(values);
  }
  template <Real Scalar>
  static Scalar combine(Scalar a, Scalar b) {
    return std::isnan(b) ? b : std::max(a, b);
  }
};

struct Smallest : Extreme<Smallest> {
  static constexpr bool sees_zeros = true;
  template <Real Scalar>
  Scalar operator()(Scalar old, Scalar value) const {
    return std::isfinite(value) ? std::min(old, value) : value - value;
  }
  template <class Scalar, int Width>
  Lanes<Scalar, Width> operator()(const Lanes<Scalar, Width>& old, const Lanes<Scalar, Width>& value) const {
    return with_nan_of<Scalar, Width>(value, Lanes<Scalar, Width>(old.min(value)));
  }
  template <class Scalar, int Width>
  static Scalar over(const Lanes<Scalar, Width>& values) {
    return -largest_lane(Lanes<Scalar, Width>(Scalar(-1) * values));
  }
  template <Real Scalar>
  static Scalar combine(Scalar a, Scalar b) {
    return std::isnan(b) ? b : std::min(a, b);
  }
};

/// joined[k] = joined[k] joined with every row's number k, for k < count; rows are `stride` apart.
template <class Reducer, Real Scalar>
void join_rows(const Reducer& join, const Scalar* numbers, Index stride, Index rows, Index count, Scalar* joined) {
  constexpr int width = register_lanes<Scalar>;
  Index k = 0;
  for (; k + width <= count; k += width) {
    Lanes<Scalar, width> together = lanes<width>(joined + k);
    for (Index row = 0; row < rows; ++row) together = join(together, Lanes<Scalar, width>(lanes<width>(numbers + row * stride + k)));
    lanes<width>(joined + k) = together;
  }
  for (; k < count; ++k)
    for (Index row = 0; row < rows; ++row) joined[k] = join(joined[k], numbers[row * stride + k]);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
