// Comparing numbers with expected ones, with tolerances that say why.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>

#include <support/catch.hpp>
#include <support/reference.hpp>

#include <implicit_attention/core/types.hpp>

namespace laws {

using namespace implicit_attention;

/// Rounding, of the largest expected number. Double: a thousand roundings of 1e-16, behind exponentials of ordinary arguments, with two
/// digits to spare. Float: the accuracy that is asked of it, about three hundred roundings of 6e-8.
template <class Scalar>
constexpr double rounding = std::is_same_v<Scalar, double> ? 1e-12 : 2e-5;

/// What underflows on the way is not missed: a factor below the smallest normal number, times whatever ordinary factor follows.
template <class Scalar>
constexpr double underflow = static_cast<double>(std::numeric_limits<Scalar>::min()) * 1e4;

/// Compares (tokens or rows, channels or tokens) numbers with expected ones, each column or matrix against its own largest in double; in
/// float against the largest of all, since what is small in one channel there may be the difference of large numbers.
template <class Scalar>
class Comparison {
 public:
  Comparison(std::string what, double condition) : what_(std::move(what)), tolerance_(rounding<Scalar> * condition) {}

  void group() {
    if constexpr (std::is_same_v<Scalar, double>) close();
  }
  void add(Scalar computed, double expected, double magnitude, Index i, Index j) {
    const double difference = std::abs(static_cast<double>(computed) - expected);
    largest_ = std::max(largest_, magnitude);
    if (!(difference <= worst_)) {
      worst_ = difference;
      std::ostringstream text;
      text.precision(17);
      text << what_ << " at (" << i << ", " << j << ") is " << computed << ", expected " << expected;
      where_ = text.str();
    }
  }
  void add(Scalar computed, double expected, Index i, Index j) { add(computed, expected, std::abs(expected), i, j); }
  void close() {
    const double allowed = tolerance_ * largest_ + underflow<Scalar>;
    if (!(worst_ <= allowed)) {
      INFO(where_ << "; off by " << worst_ << ", allowed " << allowed << ", largest " << largest_);
      CHECK(worst_ <= allowed);
    }
    worst_ = largest_ = 0;
  }

 private:
  std::string what_, where_;
  double tolerance_, worst_ = 0, largest_ = 0;
};

/// Compares (rows, columns) numbers with a function of (row, column), column by column.
template <class Scalar, class Expected>
void compare(const std::string& what, double condition, ConstView<Scalar> computed, Index rows, Index columns, const Expected& expected) {
  INFO(what << " is " << computed.rows() << " x " << computed.cols());
  REQUIRE(computed.rows() == rows);
  REQUIRE(computed.cols() == columns);
  Comparison<Scalar> comparison(what, condition);
  for (Index j = 0; j < columns; ++j) {
    for (Index i = 0; i < rows; ++i) comparison.add(computed(i, j), expected(i, j), i, j);
    comparison.group();
  }
  comparison.close();
}
template <class Scalar>
void compare(const std::string& what, double condition, ConstView<Scalar> computed, const reference::Table& expected) {
  compare<Scalar>(what, condition, computed, expected.rows, expected.columns, expected);
}

template <class Scalar>
bool same_bits(ConstView<Scalar> a, ConstView<Scalar> b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  for (Index i = 0; i < a.rows(); ++i)
    if (a.cols() > 0 && std::memcmp(a.data() + i * a.outerStride(), b.data() + i * b.outerStride(),
                                    static_cast<std::size_t>(a.cols()) * sizeof(Scalar)) != 0)
      return false;
  return true;
}

}  // namespace laws
