// Expressions of neighbouring numbers: what they give is what the same written number by number gives, for any number of them.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <implicit_attention/core/lanes.hpp>

#include <support/catch.hpp>

using namespace implicit_attention;

namespace {

/// Numbers of both signs that repeat after a number of them that no register holds.
template <class Scalar>
std::vector<Scalar> uneven_numbers(Index count, Scalar shift) {
  std::vector<Scalar> made(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < made.size(); ++i) made[i] = static_cast<Scalar>(static_cast<int>(i * 7 % 23) - 11) * Scalar(0.3) + shift;
  return made;
}

/// expression(a, b) of numbers in a row against number(a, b) of each, within a few roundings; behind the last nothing is written.
template <class Scalar, class Expression, class Number>
void expect_each(const Expression& expression, const Number& number) {
  const Scalar few = 64 * std::numeric_limits<Scalar>::epsilon(), guard = Scalar(77);
  for (const Index count : {0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 70}) {
    for (const Index first : {0, 1, 3}) {  // at any address
      INFO("numbers: " << count << ", from " << first << " on");
      std::vector<Scalar> a = uneven_numbers<Scalar>(count + first, Scalar(0.1)), b = uneven_numbers<Scalar>(count + first, Scalar(-0.45));
      std::vector<Scalar> out(static_cast<std::size_t>(count + first + 1), guard);
      const detail::ConstNumbers<Scalar> x(a.data() + first, count), y(b.data() + first, count);
      detail::Numbers<Scalar> to(out.data() + first, count);
      to = expression(x, y);
      bool same = out.back() == guard;
      for (Index i = 0; i < first; ++i) same = same && out[static_cast<std::size_t>(i)] == guard;
      for (Index i = 0; i < count; ++i) {
        const Scalar expected = number(x[i], y[i]);
        same = same && std::abs(to[i] - expected) <= few * (1 + std::abs(expected));
      }
      CHECK(same);
    }
  }
}

template <class Scalar>
void expect_functions() {
  const Scalar half = Scalar(0.5), one = Scalar(1);
  expect_each<Scalar>([&](auto x, auto y) { return x * y + half * x - y / Scalar(3); },
                      [&](Scalar x, Scalar y) { return x * y + half * x - y / Scalar(3); });
  expect_each<Scalar>([&](auto x, auto y) { return one - (x - half) * -y; }, [&](Scalar x, Scalar y) { return one - (x - half) * -y; });
  expect_each<Scalar>([&](auto x, auto y) { return x.exp() / (one + y.square()); },
                      [&](Scalar x, Scalar y) { return std::exp(x) / (one + y * y); });
  expect_each<Scalar>([&](auto x, auto y) { return x.abs().sqrt() + y.cube() + (y.abs() + one).inverse(); },
                      [&](Scalar x, Scalar y) { return std::sqrt(std::abs(x)) + y * y * y + one / (std::abs(y) + one); });
  expect_each<Scalar>([&](auto x, auto y) { return x.tanh() + y.expm1() + x.abs().log1p(); },
                      [&](Scalar x, Scalar y) { return std::tanh(x) + std::expm1(y) + std::log1p(std::abs(x)); });
  expect_each<Scalar>([&](auto x, auto y) { return x.max(y) - x.min(y) + x.max(half) * y.min(half); },
                      [&](Scalar x, Scalar y) { return std::max(x, y) - std::min(x, y) + std::max(x, half) * std::min(y, half); });
}

template <class Scalar>
void expect_sums() {
  for (const Index count : {1, 2, 5, 8, 16, 31, 32, 33, 64, 95, 130}) {
    INFO("numbers: " << count);
    const std::vector<Scalar> a = uneven_numbers<Scalar>(count, Scalar(0.2));
    const detail::ConstNumbers<Scalar> x(a.data(), count);
    double sum = 0, squares = 0;
    for (const Scalar number : a) {
      sum += static_cast<double>(number);
      squares += static_cast<double>(number) * static_cast<double>(number);
    }
    const double few = 300 * static_cast<double>(std::numeric_limits<Scalar>::epsilon());
    CHECK(std::abs(static_cast<double>(x.sum()) - sum) <= few * std::sqrt(squares * static_cast<double>(count)));
    CHECK(std::abs(static_cast<double>((x * x).sum()) - squares) <= few * squares);
    CHECK(std::abs(static_cast<double>(x.square().mean()) - squares / static_cast<double>(count)) <= few * squares);
  }
  CHECK(detail::ConstNumbers<Scalar>(nullptr, 0).sum() == Scalar(0));
}

template <class Scalar, int Width>
void expect_width() {
  INFO("lanes: " << Width);
  const std::vector<Scalar> a = uneven_numbers<Scalar>(Width + 1, Scalar(0.1)), b = uneven_numbers<Scalar>(Width + 1, Scalar(-0.45));
  std::vector<Scalar> out(static_cast<std::size_t>(Width) + 2, Scalar(77));
  const Lanes<Scalar, Width> x = lanes<Width>(a.data() + 1), y = lanes<Width>(b.data());
  Lanes<Scalar, Width> sum = Lanes<Scalar, Width>::Constant(Scalar(2));
  sum += x * y;
  sum *= Scalar(0.5);
  lanes<Width>(out.data() + 1) = sum;
  lanes<Width>(out.data() + 1) += x.max(y);
  bool same = out.front() == Scalar(77) && out.back() == Scalar(77);
  double total = 0;
  Scalar largest = x[0];
  for (Index i = 0; i < Width; ++i) {
    const Scalar expected = (2 + x[i] * y[i]) / 2 + std::max(x[i], y[i]);
    same = same && std::abs(out[static_cast<std::size_t>(i + 1)] - expected) <= 16 * std::numeric_limits<Scalar>::epsilon() * 10;
    total += static_cast<double>(x[i]);
    largest = std::max(largest, x[i]);
  }
  CHECK(same);
  CHECK(std::abs(static_cast<double>(x.sum()) - total) <= 1e3 * static_cast<double>(std::numeric_limits<Scalar>::epsilon()));
  CHECK(detail::largest_lane(x) == largest);
  CHECK(detail::all_lanes(x, Width, [&](Scalar number) { return number <= largest; }));
  CHECK(!detail::all_lanes(x, Width, [&](Scalar number) { return number < largest; }));

  // A NaN is the largest wherever it stands; of a NaN and a number, max and min take what stands first.
  const Scalar nan = std::numeric_limits<Scalar>::quiet_NaN();
  for (Index i = 0; i < Width; ++i) {
    Lanes<Scalar, Width> with = x;
    with[i] = nan;
    const Lanes<Scalar, Width> nan_first = with.max(y), nan_second = y.max(with), smaller_first = with.min(y), smaller_second = y.min(with);
    CHECK(std::isnan(detail::largest_lane(with)));
    CHECK((std::isnan(nan_first[i]) && nan_second[i] == y[i] && std::isnan(smaller_first[i]) && smaller_second[i] == y[i]));
  }
}

/// Rows whose sums are whole numbers, each another one, whatever is added up first.
template <class Scalar, int... Count>
void expect_row_sums() {
  const auto expect = [&]<int Rows>() {
    if constexpr (Rows <= detail::computed_lanes<Scalar>) {  // a register of the machine's at most
      std::vector<Scalar> rows(static_cast<std::size_t>(Rows * Rows)), sums(static_cast<std::size_t>(Rows)), expected(sums.size());
      for (std::size_t i = 0; i < rows.size(); ++i) {
        rows[i] = static_cast<Scalar>(i * i % 101);
        expected[i / sums.size()] += rows[i];
      }
      detail::LaneRegister<Scalar, Rows>::store(sums.data(), detail::sums_of_rows<Scalar, Rows>(rows.data()));
      INFO("rows: " << Rows);
      CHECK(sums == expected);
    }
  };
  (expect.template operator()<Count>(), ...);
}

template <class Scalar>
void expect_widths() {
  expect_width<Scalar, 1>();
  expect_width<Scalar, 4>();
  expect_width<Scalar, 8>();
  expect_width<Scalar, 16>();
  expect_width<Scalar, 32>();
}

}  // namespace

TEST_CASE("expressions of numbers in a row give what each number gives", "[core]") {
  expect_functions<double>();
  expect_functions<float>();
}

TEST_CASE("sums of numbers in a row", "[core]") {
  expect_sums<double>();
  expect_sums<float>();
}

TEST_CASE("fixed numbers of lanes", "[core]") {
  expect_widths<double>();
  expect_widths<float>();
}

TEST_CASE("sums of the rows of a square", "[core]") {
  expect_row_sums<double, 1, 2, 4, 8>();
  expect_row_sums<float, 1, 2, 4, 8, 16>();
}

TEST_CASE("numbers in a row are assigned, not where they stand", "[core]") {
  std::vector<double> a{1, 2, 3}, b{4, 5, 6};
  detail::Numbers<double> to(a.data(), 3);
  const detail::Numbers<double> from(b.data(), 3);
  to = from;
  b[0] = 9;
  CHECK(a == std::vector<double>{4, 5, 6});
  const detail::ConstNumbers<double> read = to;  // what may be changed may be read
  CHECK(read.data() == a.data());
  to.setOnes();
  to /= 4.0;
  CHECK(a == std::vector<double>{0.25, 0.25, 0.25});
  lanes<2>(a.data()) = Lanes<double, 2>(lanes<2>(a.data() + 1));
  a = {1, 2, 3};
  lanes<2>(a.data()) = lanes<2>(a.data() + 1);  // one number on, towards the front
  CHECK(a == std::vector<double>{2, 3, 3});
}
