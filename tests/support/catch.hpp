// Catch2, version 2 or 3, under the same names: TEST_CASE and its kin, Approx, contains_text; assertions that compile quickly.
#pragma once

#include <cmath>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif

#include "assertions.hpp"

/// The larger of two numbers, NaN where one is: std::max(worst, NaN) is worst, and a test that keeps the largest error would never see it.
/// So does a matrix' maxCoeff() unless it is told to propagate NaN.
template <class Scalar>
Scalar larger(Scalar a, Scalar b) {
  return std::isnan(b) || a < b ? b : a;
}
