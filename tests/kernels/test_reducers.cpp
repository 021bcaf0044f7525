// How values are joined, in registers and one by one.
#include <cmath>
#include <limits>

#include <support/catch.hpp>

#include <implicit_attention/kernels/reducers.hpp>

using namespace implicit_attention;

TEMPLATE_TEST_CASE("extremes are NaN where a value is not finite, in whole registers and in what is left", "", double, float) {
  using Scalar = TestType;
  constexpr Scalar infinite = std::numeric_limits<Scalar>::infinity(), nan = std::numeric_limits<Scalar>::quiet_NaN();
  constexpr Index count = 9;  // a register or two, and one number more
  const auto same = [](Scalar a, Scalar b) { return std::isnan(b) ? std::isnan(a) : a == b; };
  const auto check = [&](const char* name, const auto& join, Scalar initial, auto extreme) {
    for (const Scalar bad : {infinite, -infinite, nan, -nan})
      for (Index row = 0; row < 3; ++row)
        for (Index place = 0; place <= count; ++place) {  // at the end: everywhere
          INFO(name << ", " << bad << " at " << place << " of row " << row);
          Matrix<Scalar> rows(3, count);
          for (Index i = 0; i < rows.size(); ++i) rows.data()[i] = static_cast<Scalar>((i * 7) % 11 - 5);
          if (place < count)
            rows(row, place) = bad;
          else
            rows.row(row).setConstant(bad);
          RowVector<Scalar> joined = RowVector<Scalar>::Constant(count, initial);
          detail::join_rows(join, rows.data(), count, 3, count, joined.data());
          Index wrong = 0;
          for (Index k = 0; k < count; ++k) {
            Scalar expected = extreme(extreme(rows(0, k), rows(1, k)), rows(2, k));
            if (!std::isfinite(rows(row, k))) expected = nan;
            wrong += !same(joined[k], expected);
          }
          CHECK(wrong == 0);
        }
  };
  check("largest", detail::Largest{}, -infinite, [](Scalar a, Scalar b) { return a > b ? a : b; });
  check("smallest", detail::Smallest{}, infinite, [](Scalar a, Scalar b) { return a < b ? a : b; });
}

namespace {

/// `join` over lanes and of two numbers, one value after the other and register by register, against `by_hand` of all numbers.
template <class Scalar, class Join, class ByHand>
void check_joined_in_every_way(const char* name, const Join& join, Scalar initial, const ByHand& by_hand) {
  constexpr int width = 2 * detail::register_lanes<Scalar>;
  constexpr Scalar infinite = std::numeric_limits<Scalar>::infinity(), nan = std::numeric_limits<Scalar>::quiet_NaN();
  const auto same = [](Scalar a, Scalar b) { return std::isnan(b) ? std::isnan(a) : a == b; };
  for (const Scalar odd : {Scalar(-3), Scalar(20), infinite, -infinite, nan, -nan})
    for (int place = 0; place < width; ++place) {
      INFO(name << ", " << odd << " at " << place);
      Lanes<Scalar, width> values;
      for (int i = 0; i < width; ++i) values[i] = i == place ? odd : static_cast<Scalar>((i * 7) % 11 - 5);
      Scalar expected = initial, joined = initial, combined = initial;
      for (int i = 0; i < width; ++i) {
        expected = std::isnan(expected) ? expected : by_hand(expected, values[i]);
        joined = join(joined, Scalar(values[i]));
        const Scalar one = join(initial, Scalar(values[i]));
        combined = i % 2 == 0 ? Join::combine(combined, one) : Join::combine(one, combined);
      }
      const Lanes<Scalar, width> start = Lanes<Scalar, width>::Constant(initial);
      const Scalar across = Join::over(Lanes<Scalar, width>(join(start, values)));
      CHECK(same(joined, expected));
      CHECK(same(combined, expected));
      CHECK(same(across, expected));
    }
}

}  // namespace

TEMPLATE_TEST_CASE("a reducer joins numbers, lanes and parts of a sum to the same value", "", double, float) {
  using Scalar = TestType;
  constexpr Scalar infinite = std::numeric_limits<Scalar>::infinity();
  constexpr Scalar nan = std::numeric_limits<Scalar>::quiet_NaN();
  const auto if_finite = [](Scalar value, Scalar joined) { return std::isfinite(value) ? joined : nan; };
  check_joined_in_every_way("sum", detail::Add{}, Scalar(0), [](Scalar a, Scalar b) { return a + b; });
  check_joined_in_every_way("sum of absolute values", detail::AddAbsolute{}, Scalar(0), [](Scalar a, Scalar b) { return a + std::abs(b); });
  check_joined_in_every_way("sum of positive parts", detail::AddPositive{}, Scalar(0),
                            [&](Scalar a, Scalar b) { return if_finite(b, b < Scalar(0) ? a : a + b); });
  check_joined_in_every_way("largest", detail::Largest{}, -infinite, [&](Scalar a, Scalar b) { return if_finite(b, a > b ? a : b); });
  check_joined_in_every_way("smallest", detail::Smallest{}, infinite, [&](Scalar a, Scalar b) { return if_finite(b, a < b ? a : b); });
}
