// Gradients against finite differences of the function itself.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

namespace test_support {

/// Fourth-order central difference of f(t) at 0. With steps of 1e-3 its truncation is near 1e-13 of the fifth derivative and its
/// rounding near 1e-13 of f, so that gradients right in double agree to 1e-8 of the largest with much to spare, and wrong ones do not.
inline constexpr double finite_difference_tolerance = 1e-8;
inline double derivative(const std::function<double(double)>& f, double h) {
  return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
}

inline double dot(const Matrix<double>& a, const Matrix<double>& b) { return a.cwiseProduct(b).sum(); }

/// The tokens at which gradients are looked at one by one: ends, the middle, and both sides of a checkpoint of states.
inline std::vector<Index> tokens_to_look_at(Index tokens) {
  std::vector<Index> chosen;
  for (const Index token :
       {Index(0), Index(1), tokens / 2, Index(IMPLICIT_ATTENTION_BLOCK_TOKENS - 1), Index(IMPLICIT_ATTENTION_BLOCK_TOKENS), tokens - 1})
    if (token >= 0 && token < tokens) chosen.push_back(token);
  return chosen;
}

/// Checks `gradient` of the function `f` at `point`, along random directions that change one row, and one that changes all.
inline void check_gradient(const std::string& what, const Matrix<double>& point, const Matrix<double>& gradient,
                           const std::function<double(const Matrix<double>&)>& f, Draw& draw, double step = 1e-3) {
  INFO("gradient with respect to " << what);
  REQUIRE(gradient.rows() == point.rows());
  REQUIRE(gradient.cols() == point.cols());
  REQUIRE(gradient.allFinite());
  const double largest = gradient.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() * std::sqrt(static_cast<double>(point.cols()));
  const auto along = [&](const Matrix<double>& direction) { return derivative([&](double t) { return f(point + t * direction); }, step); };
  for (const Index token : tokens_to_look_at(point.rows())) {
    Matrix<double> direction = Matrix<double>::Zero(point.rows(), point.cols());
    direction.row(token) = draw.normals<double>(1, point.cols()).row(0);
    INFO("row " << token << " of " << point.rows());
    CHECK(std::abs(along(direction) - dot(gradient, direction)) <= finite_difference_tolerance * largest);
  }
  const Matrix<double> everywhere = draw.normals<double>(point.rows(), point.cols());
  CHECK(std::abs(along(everywhere) - dot(gradient, everywhere)) <=
        finite_difference_tolerance * largest * std::sqrt(static_cast<double>(point.rows())));
}

}  // namespace test_support
