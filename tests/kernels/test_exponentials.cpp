// Exponentials of log decays against those of a wider type.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/exponentials.hpp>

namespace {

using implicit_attention::Index;

/// Units in the last place between a number and the exponential of `log`.
template <class Scalar>
double units_from_exponential(Scalar found, Scalar log) {
  const long double exact = std::exp(static_cast<long double>(log));
  const int digits = std::numeric_limits<Scalar>::digits;
  return static_cast<double>(std::abs(static_cast<long double>(found) - exact) / std::ldexp(1.0L, std::ilogb(exact) - digits + 1));
}

template <class Scalar>
Scalar one_exponential(Scalar log) {
  implicit_attention::detail::exponentiate(&log, Index(1));
  return log;
}

/// The logarithm of twice the smallest normal number.
template <class Scalar>
Scalar least_log() {
  return std::log(2 * std::numeric_limits<Scalar>::min());
}

/// The largest distance of exponentiate_together() from the exponentials, where it gives zeros for those that are too small.
template <class Scalar>
double worst_together(const std::vector<Scalar>& logs) {
  std::vector<Scalar> found(logs.size() + 1, Scalar(7));
  implicit_attention::detail::exponentiate_together(logs.data(), static_cast<Index>(logs.size()), found.data());
  double worst = found.back() == Scalar(7) ? 0 : 1e9;  // behind the last one nothing is written
  for (std::size_t i = 0; i < logs.size(); ++i) {
    if (logs[i] < least_log<Scalar>())
      worst = larger(worst, found[i] == Scalar(0) ? 0.0 : 1e9);
    else
      worst = larger(worst, units_from_exponential(found[i], logs[i]));
  }
  return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("exponentials are within 2 units in the last place, over all normal results", "[kernels]", double, float) {
  using Scalar = TestType;
  const Scalar least = least_log<Scalar>(), most = std::log(std::numeric_limits<Scalar>::max());
  std::vector<Scalar> logs;
  for (Scalar share = 0; share < 1; share += Scalar(1) / 65536) logs.push_back(least * Scalar(0.9999) * (1 - share) + most * share);
  for (Scalar log = Scalar(1e-30); log < 80; log *= Scalar(1.01)) {
    logs.push_back(log);
    logs.push_back(-log);
  }
  std::vector<Scalar> found(logs.size());
  implicit_attention::detail::exponentiate(logs.data(), static_cast<Index>(logs.size()), found.data());
  double worst = 0;
  for (std::size_t i = 0; i < logs.size(); ++i) worst = larger(worst, units_from_exponential(found[i], logs[i]));
  CHECK(worst <= 2);
  CHECK(one_exponential(Scalar(0)) == Scalar(1));
  CHECK(one_exponential(Scalar(-0.0)) == Scalar(1));
}

TEMPLATE_TEST_CASE("exponentials below twice the smallest normal number are zero, those of large numbers infinite, NaN stays", "[kernels]",
                   double, float) {
  using Scalar = TestType;
  constexpr Scalar infinite = std::numeric_limits<Scalar>::infinity();
  const Scalar least = least_log<Scalar>(), most = std::log(std::numeric_limits<Scalar>::max());
  CHECK(one_exponential(least + Scalar(0.01)) >= 2 * std::numeric_limits<Scalar>::min());
  for (const Scalar log :
       {least - Scalar(0.01), least - Scalar(1), 2 * least, Scalar(-1e6), Scalar(-1e30), std::numeric_limits<Scalar>::lowest(), -infinite})
    CHECK(one_exponential(log) == Scalar(0));
  for (const Scalar log : {most + Scalar(0.1), most + Scalar(10), Scalar(1e30), infinite}) CHECK(one_exponential(log) == infinite);
  CHECK(std::isnan(one_exponential(std::numeric_limits<Scalar>::quiet_NaN())));
  CHECK(std::isnan(one_exponential(-std::numeric_limits<Scalar>::quiet_NaN())));
}

TEMPLATE_TEST_CASE("any count of exponentials, in place or not: each is what it is alone, and nothing else is written", "[kernels]", double,
                   float) {
  using Scalar = TestType;
  constexpr Scalar guard = 77;
  for (Index count = 0; count <= 40; ++count)
    for (const Index first : {0, 1, 3}) {  // at any address
      INFO(count << " numbers, from " << first << " on");
      std::vector<Scalar> logs(static_cast<std::size_t>(first + count + 1), guard), apart = logs;
      for (Index i = 0; i < count; ++i) logs[static_cast<std::size_t>(first + i)] = Scalar(0.37) * static_cast<Scalar>(i % 19 - 17);
      std::vector<Scalar> in_place = logs;
      implicit_attention::detail::exponentiate(logs.data() + first, count, apart.data() + first);
      implicit_attention::detail::exponentiate(in_place.data() + first, count);
      double worst = 0;
      for (Index i = 0; i < count; ++i) {
        const auto at = static_cast<std::size_t>(first + i);
        worst = larger(worst, units_from_exponential(apart[at], logs[at]));
      }
      CHECK(worst <= 2);
      CHECK(in_place == apart);
      CHECK((apart.back() == guard && std::count(apart.begin(), apart.end(), guard) == first + 1));
    }
}

TEMPLATE_TEST_CASE("exponentials that are made together are exponentials, wherever one of them is a strong decay or none", "[kernels]",
                   double, float) {
  using Scalar = TestType;
  std::vector<Scalar> weak(67);
  for (std::size_t i = 0; i < weak.size(); ++i) weak[i] = Scalar(-0.0103) * static_cast<Scalar>(i);
  for (std::size_t count = 0; count <= weak.size(); ++count) {
    INFO(count << " numbers");
    const std::vector<Scalar> logs(weak.begin(), weak.begin() + static_cast<std::ptrdiff_t>(count));
    CHECK(worst_together(logs) <= 2);
    for (const Scalar other : {Scalar(-0.75), Scalar(-3), Scalar(-700), 2 * least_log<Scalar>(), Scalar(0.5), Scalar(80)})
      for (std::size_t place = 0; place < count; place += 1 + count / 5) {
        if (other < -80 && other > least_log<Scalar>()) continue;
        INFO("one is " << other << ", at " << place);
        std::vector<Scalar> with = logs;
        with[place] = other;
        CHECK(worst_together(with) <= 2);
      }
  }
  const std::vector<Scalar> zeros(67, Scalar(0));
  std::vector<Scalar> ones(67);
  implicit_attention::detail::exponentiate_together(zeros.data(), Index(67), ones.data());
  CHECK(ones == std::vector<Scalar>(67, Scalar(1)));
}

TEMPLATE_TEST_CASE("exponentials that are made together with a NaN or a decay of zero keep both at their places", "[kernels]", double,
                   float) {
  using Scalar = TestType;
  for (std::size_t place = 0; place < 35; ++place) {
    std::vector<Scalar> logs(35, Scalar(-0.25)), found(35);
    logs[place] = std::numeric_limits<Scalar>::quiet_NaN();
    logs[(place + 20) % 35] = -std::numeric_limits<Scalar>::infinity();
    implicit_attention::detail::exponentiate_together(logs.data(), Index(35), found.data());
    INFO("NaN at " << place);
    double worst = 0;
    for (std::size_t i = 0; i < 35; ++i) {
      if (i == place)
        CHECK(std::isnan(found[i]));
      else if (std::isinf(logs[i]))
        CHECK(found[i] == Scalar(0));
      else
        worst = larger(worst, units_from_exponential(found[i], logs[i]));
    }
    CHECK(worst <= 2);
  }
}
