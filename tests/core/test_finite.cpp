// Numbers that are not finite are found, and named by their place; names are told from near ones.
#include <limits>
#include <string>
#include <utility>

#include <support/catch.hpp>
#include <support/errors.hpp>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/edit_distance.hpp>
#include <implicit_attention/core/finite.hpp>

namespace finite_cases {

using namespace implicit_attention;
using test_support::error_of;

TEMPLATE_TEST_CASE("the first number that is not finite is found, row by row", "[core]", float, double) {
  using S = TestType;
  constexpr S nan = std::numeric_limits<S>::quiet_NaN(), infinity = std::numeric_limits<S>::infinity();
  for (const Index columns : {1, 3, 9, 40}) {  // less than a register, and more than several
    Matrix<S> numbers = Matrix<S>::Constant(4, columns, std::numeric_limits<S>::max());
    CHECK(detail::all_finite(numbers));
    CHECK(!detail::first_not_finite(numbers));
    CHECK(detail::all_finite(numbers * S(0.5)));
    detail::check_finite("layer", "the output", numbers);
    detail::check_finite_activation("layer", "the output", numbers);
    for (const S bad : {nan, infinity, -infinity})
      for (Index row = 0; row < 4; ++row)
        for (const Index column : {Index(0), columns / 2, columns - 1}) {
          INFO(bad << " at (" << row << ", " << column << ") of " << columns << " columns");
          Matrix<S> spoilt = numbers;
          spoilt(row, column) = bad;
          CHECK(!detail::all_finite(spoilt));
          CHECK(detail::all_finite(spoilt.topRows(row)));
          CHECK(!detail::all_finite(spoilt.col(column)));
          CHECK(!detail::all_finite(spoilt * S(0.5)));  // no numbers in memory
          CHECK(detail::first_not_finite(spoilt) == std::pair(row, column));
          spoilt(3, columns - 1) = nan;  // a later one is not the first
          CHECK(detail::first_not_finite(spoilt) == std::pair(row, column));
        }
  }
}

TEST_CASE("what is not finite is named, with its place", "[core]") {
  Matrix<double> numbers = Matrix<double>::Zero(3, 5);
  numbers(2, 1) = -std::numeric_limits<double>::infinity();
  const auto [kind, text] = error_of([&] { detail::check_finite("layer", "the output", numbers); });
  CHECK(kind == ErrorKind::value);
  CHECK_THAT(text, contains_text("layer: an infinity in the output at (2, 1), expected finite numbers"));
  numbers(1, 4) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THAT(error_of([&] { detail::check_finite_activation("layer", "dt", numbers); }).second,
             contains_text("layer: NaN in dt at token 1, channel 4, expected finite numbers"));
}

TEST_CASE("how many letters lie between two names, whatever their case", "[core]") {
  CHECK(detail::edit_distance("", "") == 0);
  CHECK(detail::edit_distance("gate", "") == 4);
  CHECK(detail::edit_distance("", "gate") == 4);
  CHECK(detail::edit_distance("gate", "GATE") == 0);
  CHECK(detail::edit_distance("kitten", "sitting") == 3);
  CHECK(detail::edit_distance("sitting", "kitten") == 3);
  CHECK(detail::edit_distance("channels", "chanels") == 1);
  CHECK(detail::edit_distance("ab", "ba") == 2);
  CHECK(detail::edit_distance("abc", "xyz") == 3);
}

}  // namespace finite_cases
