// How values are joined, in registers and one by one.
#include <cmath>
#include <limits>

#include <support/catch.hpp>

#include <implicit_attention/kernels/reducers.hpp>

using namespace implicit_attention;

TEMPLATE_TEST_CASE("extremes take an infinite value as a value and keep a NaN, in whole registers and in what is left", "", double, float) {
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
            if (std::isnan(rows(row, k))) expected = nan;
            wrong += !same(joined[k], expected);
          }
          CHECK(wrong == 0);
        }
  };
  check("largest", detail::Largest{}, -infinite, [](Scalar a, Scalar b) { return a > b ? a : b; });
  check("smallest", detail::Smallest{}, infinite, [](Scalar a, Scalar b) { return a < b ? a : b; });
}
