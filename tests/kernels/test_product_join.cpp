// Products of query and key factors that are joined to rows of a map, against the sums they stand for.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/product_join.hpp>

namespace {

using namespace implicit_attention;

/// Joins `columns` columns from `first` on of `rows` rows of a map, and returns the largest error; what is not joined must stay.
template <class Reducer, class Scalar>
double worst_joined_entry(Index columns, Index first, Index rows, Index channels, Index state) {
  using Join = detail::ProductJoin<Scalar, Reducer>;
  constexpr Index width = Join::width, strip = detail::strip_tokens;
  const Index panels = (columns + width - 1) / width, key_channel = state * width, panel_stride = channels * key_channel + 3;
  test_support::Draw draw(static_cast<std::uint64_t>(columns + 100 * rows + 1000 * channels));
  const Matrix<Scalar> queries = draw.normals<Scalar>(channels * state, strip), keys = draw.normals<Scalar>(panels, panel_stride),
                       before = draw.normals<Scalar>(strip, std::max(first, Index(0)) + columns + 2);
  Matrix<Scalar> map = before;
  std::vector<Scalar*> to;
  for (Index r = 0; r < rows; ++r) to.push_back(&map(r, 0));
  Join join(Reducer{}, state, panel_stride);
  join.take_channels(channels);
  join.join(queries.data(), keys.data(), columns, first, to.data(), rows);

  double worst = 0;
  for (Index r = 0; r < strip; ++r)
    for (Index at = 0; at < map.cols(); ++at) {
      double expected = static_cast<double>(before(r, at));
      const Index column = at - first;
      if (r < rows && column >= 0 && column < columns)
        for (Index c = 0; c < channels; ++c) {
          double entry = 0;
          for (Index n = 0; n < state; ++n)
            entry += static_cast<double>(queries(c * state + n, r)) *
                     static_cast<double>(keys(column / width, c * key_channel + n * width + column % width));
          expected = Reducer{}(expected, entry);
        }
      worst = larger(worst, std::abs(static_cast<double>(map(r, at)) - expected));
    }
  return worst;
}

template <class Reducer, class Scalar>
void expect_joined_entries() {
  using Join = detail::ProductJoin<Scalar, Reducer>;
  const double few = 200 * static_cast<double>(std::numeric_limits<Scalar>::epsilon());
  for (const Index columns : {detail::strip_tokens, Join::columns_together, 2 * Join::columns_together})
    for (const Index first : {Index(0), Index(5), Index(-1), Index(-3), -Index(Join::width) - 1, -columns})
      for (const Index rows : {Index(1), Index(5), detail::strip_tokens})
        for (const Index channels : {1, 3}) {
          INFO(columns << " columns from " << first << " on, " << rows << " rows, " << channels << " channels");
          CHECK(worst_joined_entry<Reducer, Scalar>(columns, first, rows, channels, 1) <= few);
          CHECK(worst_joined_entry<Reducer, Scalar>(columns, first, rows, channels, 5) <= few);
        }
}

}  // namespace

TEMPLATE_TEST_CASE("joined products are the sums they stand for; rows and columns that are not there stay as they are", "[kernels]", double,
                   float) {
  expect_joined_entries<detail::Add, TestType>();
  expect_joined_entries<detail::AddAbsolute, TestType>();
  expect_joined_entries<detail::Largest, TestType>();
}
