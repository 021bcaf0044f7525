// Rows that grow piece by piece, against a list of all of them.
#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>
#include <support/random.hpp>

#include <implicit_attention/streaming/growing_rows.hpp>

namespace growing_rows_cases {

using namespace implicit_attention;
using test_support::Draw;
using test_support::what_of;

constexpr Index columns = 3;

/// Pieces of one token, of some, and of more than a window.
const std::vector<Index> pieces = {3, 1, 1, 7, 1, 0, 30, 2, 1, 1, 1, 1, 1, 1, 1, 90, 1, 5};

TEST_CASE("growing rows are the last of all rows, in bounded memory", "[streaming]") {
  for (const Index window : {Index(0), Index(1), Index(4), Index(13), Index(1000)}) {
    INFO("a window of " << window);
    Draw draw(2);
    Matrix<float> all(0, columns);
    detail::GrowingRows<float> rows;
    CHECK(rows.view().empty());
    CHECK(rows.bytes() == 0);
    for (const Index count : pieces) {
      const Matrix<float> added = draw.normals<float>(count, columns);
      Matrix<float> joined(all.rows() + count, columns);
      joined << all, added;
      all = joined;
      rows.append(added, window);
      const Index kept = window > 0 ? std::min(window, all.rows()) : all.rows();
      REQUIRE(rows.rows() == kept);
      REQUIRE(rows.cols() == columns);
      CHECK(rows.view().matrix() == all.bottomRows(kept));
      CHECK(rows.finite());
      // Twice what is kept while a piece comes in, and 16 rows at least.
      const Index most = window > 0 ? std::min(2 * window, 2 * all.rows()) : 2 * all.rows();
      CHECK(rows.bytes() <= static_cast<std::size_t>(std::max<Index>(most, 16) * columns) * sizeof(float));
    }
  }
}

TEST_CASE("a number that is not finite is known for as long as any row of its piece is kept", "[streaming]") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Index window : {Index(0), Index(5)})
    for (const Index count : {1, 3}) {
      INFO(count << " rows behind a window of " << window);
      detail::GrowingRows<float> rows;
      rows.append(Matrix<float>(Matrix<float>::Ones(2, columns)), window);
      Matrix<float> piece = Matrix<float>::Ones(count, columns);
      piece(0, 1) = nan;
      rows.append(piece, window);
      CHECK(!rows.finite());
      for (Index later = 1; later < 12; ++later) {
        rows.append(Matrix<float>(Matrix<float>::Ones(1, columns)), window);
        INFO(later << " rows later");
        CHECK(rows.finite() == (window > 0 && later >= window));
      }
    }
}

TEST_CASE("the newest row is added to, columns are multiplied, and what is not finite in that is known", "[streaming]") {
  Draw draw(5);
  const float infinite = std::numeric_limits<float>::infinity();
  Matrix<float> all = draw.normals<float>(9, columns);
  detail::GrowingRows<float> rows;
  const Matrix<float> more = draw.normals<float>(1, columns);
  rows.add_to_newest(more);  // there is none
  rows.multiply_columns(RowVector<float>::Constant(columns, 2));
  CHECK(rows.view().empty());
  for (Index row = 0; row < 9; ++row) rows.append(all.middleRows(row, 1), 6);
  rows.add_to_newest(more);
  RowVector<float> factors(columns);
  factors << 2, 1, 0.5F;
  rows.multiply_columns(factors);
  all.row(8) += more.row(0);
  const Matrix<float> expected = (all.bottomRows(6).array().rowwise() * factors.array()).matrix();
  CHECK(rows.view().matrix() == expected);
  CHECK(rows.finite());
  detail::GrowingRows<float> other;
  other.append(all, 0);
  other.add_to_newest(Matrix<float>(Matrix<float>::Constant(1, columns, infinite)));
  CHECK(!other.finite());
  factors[1] = infinite;
  rows.multiply_columns(factors);
  CHECK(!rows.finite());
}

TEST_CASE("a view of growing rows stays as it was while they move to larger memory", "[streaming]") {
  detail::GrowingRows<double> rows;
  const Matrix<double> first = Draw(8).normals<double>(4, columns);
  rows.append(first, 0);
  const Array<double> view = rows.view();
  rows.append(Matrix<double>(Matrix<double>::Ones(100, columns)), 0);
  CHECK(view.matrix() == first);
}

TEST_CASE("an array of one row stays one row until a piece's differs", "[streaming]") {
  Draw draw(6);
  const Matrix<double> row = draw.normals<double>(1, columns), next = draw.normals<double>(1, columns);
  const Matrix<double> last = draw.normals<double>(4, columns);
  detail::StreamedArray<double> array;
  CHECK(array.empty());
  array.append({}, 2, 0, 0, true);
  CHECK(array.empty());
  array.append(row, 2, 0, 0, true);
  array.append(row, 3, 2, 0, true);
  CHECK(!array.empty());
  CHECK(array.view().matrix() == row);
  CHECK(array.bytes() == 0);
  array.append(next, 2, 5, 0, true);  // one row for two tokens, behind one row for five
  Matrix<double> expected(7, columns);
  expected << row.replicate(5, 1), next.replicate(2, 1);
  CHECK(array.view().matrix() == expected);
  array.append(last, 4, 7, 0, true);
  Matrix<double> all(11, columns);
  all << expected, last;
  CHECK(array.view().matrix() == all);
  // Behind a window, from one row that stands for more tokens than are kept.
  detail::StreamedArray<double> windowed;
  windowed.append(row, 3, 0, 4, true);
  windowed.append(row, 3, 3, 4, true);
  windowed.append(Matrix<double>(last.topRows(3)), 3, 4, 4, true);
  Matrix<double> kept(4, columns);
  kept << row, last.topRows(3);
  CHECK(windowed.view().matrix() == kept);
  // Where one row cannot stand for all, it is the row of one token.
  detail::StreamedArray<double> each;
  each.append(row, 1, 0, 0);
  each.append(row, 1, 1, 0);
  CHECK(each.view().matrix() == row.replicate(2, 1));
}

TEST_CASE("an array that comes, goes or changes its width is named", "[streaming]") {
  const Matrix<double> row = Matrix<double>::Ones(1, columns), wide = Matrix<double>::Ones(1, columns + 1);
  for (const bool one_row : {false, true}) {
    detail::StreamedArray<double> array;
    array.check("gate", row, 0);  // before the first piece anything fits
    array.check("gate", {}, 0);
    array.append(row, 1, 0, 0, one_row);
    array.check("gate", row, 1);
    CHECK_THAT(what_of([&] { array.check("gate", {}, 1); }), contains_text("gate is empty, expected it as in the earlier pieces"));
    CHECK_THAT(what_of([&] { array.check("gate", wide, 1); }), contains_text("gate has 4 columns, expected 3 as in the earlier pieces"));
  }
  const detail::StreamedArray<double> absent;
  CHECK_THAT(what_of([&] { absent.check("gate", row, 1); }), contains_text("gate is there, expected it as in the earlier pieces"));
}

}  // namespace growing_rows_cases
