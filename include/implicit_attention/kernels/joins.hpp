// How a value is joined to what is already there: for whole registers and for single numbers alike.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <implicit_attention/kernels/lanes.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

// Each join has, beside its two calls, combine(a, b), which joins two results, and sees_zeros: whether joining a zero changes anything.
namespace detail {

struct Overwrite {
  template <class Old, Real Scalar>
  Scalar operator()(const Old&, Scalar value) const {
    return value;
  }
  template <class Old, class Scalar, int Width>
  Lanes<Scalar, Width> operator()(const Old&, const Lanes<Scalar, Width>& value) const {
    return value;
  }
};

struct Sum {
  static constexpr bool sees_zeros = false;
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
  template <class Old, class Scalar, int Width>
  Lanes<Scalar, Width> operator()(const Old& old, const Lanes<Scalar, Width>& value) const {
    return old + value;
  }
};

struct AddAbsolute : Sum {
  template <Real Scalar>
  Scalar operator()(Scalar old, Scalar value) const {
    return old + std::abs(value);
  }
  template <class Old, class Scalar, int Width>
  Lanes<Scalar, Width> operator()(const Old& old, const Lanes<Scalar, Width>& value) const {
    return old + value.abs();
  }
};

struct AddPositive : Sum {
  template <Real Scalar>
  Scalar operator()(Scalar old, Scalar value) const {
    return old + std::max(value, Scalar(0));
  }
  template <class Old, class Scalar, int Width>
  Lanes<Scalar, Width> operator()(const Old& old, const Lanes<Scalar, Width>& value) const {
    return old + value.max(Scalar(0));
  }
};

struct Largest {
  static constexpr bool sees_zeros = true;
  template <Real Scalar>
  Scalar operator()(Scalar old, Scalar value) const {
    return std::max(old, value);
  }
  template <class Old, class Scalar, int Width>
  Lanes<Scalar, Width> operator()(const Old& old, const Lanes<Scalar, Width>& value) const {
    return old.max(value);
  }
  template <Real Scalar>
  static Scalar combine(Scalar a, Scalar b) {
    return std::max(a, b);
  }
};

struct Smallest {
  static constexpr bool sees_zeros = true;
  template <Real Scalar>
  Scalar operator()(Scalar old, Scalar value) const {
    return std::min(old, value);
  }
  template <class Old, class Scalar, int Width>
  Lanes<Scalar, Width> operator()(const Old& old, const Lanes<Scalar, Width>& value) const {
    return old.min(value);
  }
  template <Real Scalar>
  static Scalar combine(Scalar a, Scalar b) {
    return std::min(a, b);
  }
};

/// Whether a list is 0, 1, ..., count - 1.
[[nodiscard]] inline bool is_every(const std::vector<Index>& list, Index count) {
  if (static_cast<Index>(list.size()) != count) return false;
  for (std::size_t i = 0; i < list.size(); ++i)
    if (list[i] != static_cast<Index>(i)) return false;
  return true;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
