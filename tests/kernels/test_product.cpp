// Tiles of a product of query and key factors, and how columns are shared out to them, against the sums they stand for.
#include <limits>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/product.hpp>

namespace {

using namespace implicit_attention;

constexpr Index rows_of_a_tile = detail::register_rows;

/// The largest error of tile (+)= queries^T keys over `inner` factors.
template <bool Add, int Columns, class Scalar>
double worst_tile_entry(Index inner) {
  constexpr Index stride = detail::register_lanes<Scalar>;
  test_support::Draw draw(static_cast<std::uint64_t>(7 * inner + Columns + Add));
  const Matrix<Scalar> queries = draw.normals<Scalar>(inner, rows_of_a_tile), keys = draw.normals<Scalar>(inner, stride),
                       before = draw.normals<Scalar>(rows_of_a_tile, Columns);
  detail::Tile<Scalar, Columns> tile;
  for (Index r = 0; r < rows_of_a_tile; ++r) tile[static_cast<std::size_t>(r)] = lanes<Columns>(before.row(r).data());
  detail::multiply<Add, Columns>(queries.data(), keys.data(), inner, tile);
  double worst = 0;
  for (Index r = 0; r < rows_of_a_tile; ++r)
    for (int column = 0; column < Columns; ++column) {
      double expected = Add ? static_cast<double>(before(r, column)) : 0;
      for (Index n = 0; n < inner; ++n) expected += static_cast<double>(queries(n, r)) * static_cast<double>(keys(n, column));
      worst = larger(worst, std::abs(static_cast<double>(tile[static_cast<std::size_t>(r)][column]) - expected));
    }
  return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("a tile is the sum over factors of query times key, added to what was there or in its place", "[kernels]", double,
                   float) {
  constexpr int width = detail::register_lanes<TestType>;
  const double few = 200 * static_cast<double>(std::numeric_limits<TestType>::epsilon());
  for (const Index inner : {1, 2, 5, 16}) {
    CHECK(worst_tile_entry<true, width, TestType>(inner) <= few);
    CHECK(worst_tile_entry<false, width, TestType>(inner) <= few);
  }
}

TEMPLATE_TEST_CASE("panels cover the columns once, in whole registers where there are that many", "[kernels]", double, float) {
  constexpr Index width = detail::register_lanes<TestType>;
  for (const Index columns : {rows_of_a_tile, 2 * rows_of_a_tile, 4 * rows_of_a_tile}) {
    std::vector<int> seen(static_cast<std::size_t>(columns));
    detail::each_panel<TestType>(columns, [&]<int Columns>(Index first) {
      CHECK((Columns == width || (Columns == rows_of_a_tile && columns < width)));
      for (Index column = first; column < first + Columns; ++column) seen.at(static_cast<std::size_t>(column)) += 1;
    });
    CHECK(seen == std::vector<int>(seen.size(), 1));
  }
}
