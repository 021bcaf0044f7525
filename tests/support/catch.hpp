// Catch2, version 2 or 3, under the same names: TEST_CASE and its kin, Approx, contains_text.
#pragma once

#include <cmath>
#include <string>

// Without a try block around each assertion, of which there are thousands: an exception ends its test case.
#define CATCH_CONFIG_FAST_COMPILE
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif

/// A matcher for `CHECK_THAT(text, contains_text("needle"))`.
inline auto contains_text(const std::string& needle) {
#if __has_include(<catch2/catch_all.hpp>)
  return Catch::Matchers::ContainsSubstring(needle);
#else
  return Catch::Matchers::Contains(needle);
#endif
}

/// The larger of two numbers, NaN where one is: std::max(worst, NaN) is worst, and a test that keeps the largest error would never see it.
/// So does a matrix' maxCoeff() unless it is told to propagate NaN.
template <class Scalar>
Scalar larger(Scalar a, Scalar b) {
  return std::isnan(b) || a < b ? b : a;
}
