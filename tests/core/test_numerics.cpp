// The elementary functions, in their tails above all, against higher precision.
#include <algorithm>
#include <cmath>
#include <limits>

#include <implicit_attention/core/numerics.hpp>

#include <support/catch.hpp>

using namespace implicit_attention;

namespace {

/// Largest relative error of `got` over x, wherever the exact value is a normal number of the type.
template <class Scalar, class Got, class Exact>
double worst_relative_error(double from, double to, const Got& got, const Exact& exact) {
  double worst = 0;
  for (int i = 0; i <= 4000; ++i) {
    const Scalar x = static_cast<Scalar>(from + (to - from) * i / 4000);
    const long double expected = exact(static_cast<long double>(x));
    if (std::abs(expected) < static_cast<long double>(std::numeric_limits<Scalar>::min())) continue;
    worst = larger(worst, static_cast<double>(std::abs((static_cast<long double>(got(x)) - expected) / expected)));
  }
  return worst;
}

template <class Scalar>
Matrix<Scalar> one(Scalar x) {
  return Matrix<Scalar>::Constant(1, 1, x);
}

template <class Scalar>
void check_functions() {
  // A handful of roundings each. In a tail, exp(-85) turns the rounding of its argument, up to half a unit of 85's last place, into
  // a relative error of up to 64 epsilon; gelu's argument has been through several roundings.
  const double few = 8 * static_cast<double>(std::numeric_limits<Scalar>::epsilon()), many = 25 * few;
  const auto exact_sigmoid = [](long double x) { return 1 / (1 + std::exp(-x)); };
  CHECK(worst_relative_error<Scalar>(
            -85, 85, [](Scalar x) { return sigmoid(x); }, exact_sigmoid) < many);
  CHECK(worst_relative_error<Scalar>(
            -85, 85, [](Scalar x) { return sigmoid(one(x))(0, 0); }, exact_sigmoid) < many);

  const auto exact_softplus = [](long double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); };
  CHECK(worst_relative_error<Scalar>(
            -85, 85, [](Scalar x) { return softplus(x); }, exact_softplus) < many);
  CHECK(worst_relative_error<Scalar>(
            -85, 85, [](Scalar x) { return softplus(one(x))(0, 0); }, exact_softplus) < many);
  // In the middle of a row whose last numbers do not fill a register, and among them.
  for (const Index place : {5, 36})
    CHECK(worst_relative_error<Scalar>(
              -85, 85, [place](Scalar x) { return softplus(Matrix<Scalar>(Matrix<Scalar>::Constant(1, 37, x)))(0, place); },
              exact_softplus) < many);

  const auto exact_gelu_scale = [](long double x) {
    return 1 / (1 + std::exp(-2 * std::sqrt(2 / 3.14159265358979323846264338327950288L) * (x + 0.044715L * x * x * x)));
  };
  CHECK(worst_relative_error<Scalar>(
            -8, 8, [](Scalar x) { return gelu_scale(x); }, exact_gelu_scale) < 4 * many);
  CHECK(worst_relative_error<Scalar>(
            -8, 8, [](Scalar x) { return gelu_scale(one(x))(0, 0); }, exact_gelu_scale) < 4 * many);
  // d/dx (x s(x)) = s + x s (1 - s) f'; it crosses zero near -0.75, so only what lies to either side.
  const auto exact_gelu_derivative = [&](long double x) {
    const long double s = exact_gelu_scale(x), rest = exact_gelu_scale(-x);
    return s + x * s * rest * 2 * std::sqrt(2 / 3.14159265358979323846264338327950288L) * (1 + 3 * 0.044715L * x * x);
  };
  CHECK(worst_relative_error<Scalar>(
            -8, -1, [](Scalar x) { return gelu_derivative(x); }, exact_gelu_derivative) < 4 * many);
  CHECK(worst_relative_error<Scalar>(
            -0.5, 8, [](Scalar x) { return gelu_derivative(x); }, exact_gelu_derivative) < 4 * many);

  const auto exact_root = [](long double log_a) { return std::sqrt(-std::expm1(2 * log_a)); };
  CHECK(worst_relative_error<Scalar>(
            -1e-4, -1e-9, [](Scalar x) { return sqrt_one_minus_square(x); }, exact_root) < few);
  CHECK(worst_relative_error<Scalar>(
            -20, -1e-6, [](Scalar x) { return sqrt_one_minus_square(x); }, exact_root) < few);
  CHECK(worst_relative_error<Scalar>(
            -20, -1e-6, [](Scalar x) { return sqrt_one_minus_square(one(x))(0, 0); }, exact_root) < few);

  // Far out: the limits, and nothing that is not a number.
  for (const Scalar x : {Scalar(-1e4), Scalar(-800), Scalar(800), Scalar(1e4)}) {
    CHECK(sigmoid(x) == (x > 0 ? 1 : 0));
    CHECK(sigmoid(one(x))(0, 0) == Approx(x > 0 ? 1 : 0).margin(1e-30));
    CHECK(silu(x) == (x > 0 ? x : 0));
    CHECK(softplus(x) == (x > 0 ? x : 0));
    CHECK(gelu_scale(x) == (x > 0 ? 1 : 0));
    CHECK(gelu_scale(one(x))(0, 0) == Approx(x > 0 ? 1 : 0).margin(1e-30));
    CHECK(gelu_derivative(x) == (x > 0 ? 1 : 0));
  }
}

}  // namespace

template <class Scalar>
void check_cap_scale() {
  for (const Scalar s : {Scalar(1e-3), Scalar(0.5), Scalar(-2), Scalar(5)})
    CHECK(soft_cap_scale(std::tanh(s)) == Approx(std::tanh(s) / s).epsilon(1e-3));
  CHECK(soft_cap_scale(Scalar(0)) == 1);
  CHECK(std::isnan(soft_cap_scale(std::numeric_limits<Scalar>::quiet_NaN())));
  // Rounded to 1, from any s above some 9 (float) or 19: small, but no less than the largest t below 1 gives.
  const Scalar saturated = soft_cap_scale(Scalar(1));
  CHECK(saturated == soft_cap_scale(Scalar(-1)));
  CHECK(saturated > Scalar(0.05));
  CHECK(saturated <= soft_cap_scale(Scalar(1) - std::numeric_limits<Scalar>::epsilon()));
}

TEST_CASE("The scale of a soft cap is tanh(s) / s, and not zero where tanh is rounded to 1") {
  SECTION("float") { check_cap_scale<float>(); }
  SECTION("double") { check_cap_scale<double>(); }
}

TEST_CASE("Elementary functions are right in their tails, in float and in double") {
  SECTION("float") { check_functions<float>(); }
  SECTION("double") { check_functions<double>(); }
}
