#include <catch2/catch.hpp>

#include <implicit_attention/core/matrix_product.hpp>

using namespace implicit_attention;

namespace {

/// A matrix in the middle of a larger one: rows lie further apart than they are long, and neither begins at a register.
template <class Scalar>
struct Inset {
  Matrix<Scalar> around;
  Index rows, columns;
  Inset(Index high, Index wide) : around(Matrix<Scalar>::Random(high + 1, wide + 3)), rows(high), columns(wide) {}
  [[nodiscard]] ConstView<Scalar> view() const { return {around.data() + around.cols() + 1, rows, columns, around.cols()}; }
  [[nodiscard]] View<Scalar> changing() { return {around.data() + around.cols() + 1, rows, columns, around.cols()}; }
};

/// out (+)= sign left right, one sum after the other.
template <class Scalar, class Left, class Right>
Matrix<double> by_definition(ConstView<Scalar> before, Index inner, bool add, double sign, Left left, Right right) {
  Matrix<double> out = Matrix<double>::Zero(before.rows(), before.cols());
  if (add) out = before.template cast<double>();
  for (Index i = 0; i < out.rows(); ++i)
    for (Index j = 0; j < out.cols(); ++j)
      for (Index k = 0; k < inner; ++k) out(i, j) += sign * static_cast<double>(left(i, k)) * static_cast<double>(right(k, j));
  return out;
}

template <class Scalar>
void check_products(Index rows, Index inner, Index columns) {
  INFO(rows << " x " << inner << " times " << inner << " x " << columns);
  const Inset<Scalar> a(rows, inner), b(inner, columns), a_transposed(inner, rows), b_transposed(columns, inner);
  Inset<Scalar> out(rows, columns);
  const double allowed = (sizeof(Scalar) == 4 ? 1e-6 : 1e-15) * static_cast<double>(inner + 2);
  for (const bool add : {false, true})
    for (const Scalar sign : {Scalar(1), Scalar(-1)}) {
      const auto check = [&](const Matrix<Scalar>& outside, const Matrix<double>& expected) {
        CHECK((Matrix<double>(out.view().template cast<double>()) - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
              allowed);
        Matrix<Scalar> now = out.around;
        now.block(1, 1, rows, columns) = outside.block(1, 1, rows, columns);
        CHECK(now == outside);  // nothing is written beside the result
        out.around = outside;
      };
      const Matrix<Scalar> before = out.around;
      const Matrix<double> plain = by_definition<Scalar>(
          out.view(), inner, add, static_cast<double>(sign), [&](Index i, Index k) { return a.view()(i, k); },
          [&](Index k, Index j) { return b.view()(k, j); });
      detail::signed_product<Scalar>(out.changing(), a.view(), b.view(), sign, add, detail::Transposed::none);
      check(before, plain);
      const Matrix<double> left = by_definition<Scalar>(
          out.view(), inner, add, static_cast<double>(sign), [&](Index i, Index k) { return a_transposed.view()(k, i); },
          [&](Index k, Index j) { return b.view()(k, j); });
      detail::signed_product<Scalar>(out.changing(), a_transposed.view(), b.view(), sign, add, detail::Transposed::left);
      check(before, left);
      const Matrix<double> right = by_definition<Scalar>(
          out.view(), inner, add, static_cast<double>(sign), [&](Index i, Index k) { return a.view()(i, k); },
          [&](Index k, Index j) { return b_transposed.view()(j, k); });
      detail::signed_product<Scalar>(out.changing(), a.view(), b_transposed.view(), sign, add, detail::Transposed::right);
      check(before, right);
    }
}

}  // namespace

TEMPLATE_TEST_CASE("matrix product: every remainder of rows, columns and sums, against its definition", "[core]", float, double) {
  const Index wide = detail::product_tile_columns<TestType>;
  for (Index rows = 1; rows <= 17; ++rows) check_products<TestType>(rows, 7, wide + wide / 2);
  for (Index columns = 1; columns <= 2 * wide + 1; ++columns) check_products<TestType>(9, 5, columns);
  for (const Index inner : {Index(0), Index(1), wide, detail::product_inner - 1, detail::product_inner + 3})
    check_products<TestType>(8, inner, wide / 2 + 1);
  check_products<TestType>(detail::product_rows + 5, 3, wide + 1);
  // Few rows beside a large right factor, whose part of the result does not end with its columns or the registers.
  for (const Index rows : {wide / 4, wide / 2 - 1, wide / 2, wide - 2, Index(64)}) {
    INFO("few: " << detail::few_rows<TestType>(rows, 301 * 221));
    check_products<TestType>(rows, 301, 221);
  }
  CHECK(detail::few_rows<TestType>(wide / 2, 301 * 221));
  CHECK_FALSE(detail::few_rows<TestType>(65, 301 * 221));
  CHECK_FALSE(detail::few_rows<TestType>(wide / 2, 301));
}

TEMPLATE_TEST_CASE("matrix product: bits do not depend on how columns are shared out", "[core]", float, double) {
  const Index wide = detail::product_tile_columns<TestType>, columns = 3 * wide + 200;
  for (const Index rows : {Index(1), Index(13), wide / 2, Index(64)}) {
    INFO(rows << " rows");
    const Inset<TestType> a(rows, 303), b(columns, 303);
    Matrix<TestType> whole(rows, columns), parts(rows, columns);
    detail::set_product(whole, a.view(), b.view(), detail::Transposed::right);
    for (const Index share : {Index(1), wide / 2, wide, wide + wide / 2, 2 * wide - 1}) {
      INFO(share << " columns at a time");
      for (Index first = 0; first < columns; first += share) {
        const Index count = std::min(share, columns - first);
        detail::set_product(parts.middleCols(first, count), a.view(), ConstView<TestType>(b.view().middleRows(first, count)),
                            detail::Transposed::right);
      }
      CHECK(parts == whole);
    }
  }
}
