// Rows of recurrences with one matrix a head, by every way that they are made, against the equation, token by token in double.
#include <algorithm>
#include <limits>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/surrounded_matrix.hpp>

#include "head_cases.hpp"

namespace {

using namespace head_cases;

template <class Scalar>
void check_rows_of_plan(const Plan& plan) {
  INFO((sizeof(Scalar) == 4 ? "float, " : "double, ") << plan.text());
  const HeadRecurrence<Scalar> r = make<Scalar>(plan);
  r.check();
  for (Index head = 0; head < r.heads; ++head) {
    const Matrix<double> expected = matrix_by_equation(r, head);
    constexpr double floor = 0.1;  // a row's query . key is of size 1, also where it cancels or another diagonal replaces it
    Matrix<Scalar> rows = Matrix<Scalar>::Constant(r.tokens, r.tokens, Scalar(7));
    matrix_rows(r, head, 0, r.tokens, View<Scalar>(rows));
    check_rows<Scalar>(rows, expected, "all rows", floor);
    bool zeros = true;
    for (Index i = 0; i < r.tokens; ++i)
      for (Index j = 0; j < r.tokens; ++j)
        if (j > i || j < r.first_visible(i)) zeros = zeros && rows(i, j) == Scalar(0);
    CHECK(zeros);
    // One row after the other, and a few from the middle.
    Matrix<Scalar> single = Matrix<Scalar>::Constant(r.tokens, r.tokens, Scalar(7));
    for (Index i = 0; i < r.tokens; ++i) matrix_rows(r, head, i, i + 1, View<Scalar>(&single(i, 0), 1, r.tokens));
    check_rows<Scalar>(single, expected, "single rows", floor);
    const Index begin = r.tokens / 3, end = std::max(begin + 1, r.tokens - r.tokens / 4);
    Matrix<Scalar> part = Matrix<Scalar>::Constant(end - begin, r.tokens, Scalar(7));
    matrix_rows(r, head, begin, end, View<Scalar>(part));
    check_rows<Scalar>(part, expected.middleRows(begin, end - begin), "rows from the middle", floor);
  }
  // A row of all heads at once is each head's by itself, to the last bit.
  const SharedMatrix<Scalar> matrix(r);
  std::vector<Index> heads;
  for (Index head = 0; head < r.heads; ++head) heads.push_back(head);
  bool same = true;
  for (Index row = 0; row < r.tokens; row += 3) {
    Matrix<Scalar> together = Matrix<Scalar>::Constant(r.heads, r.tokens, Scalar(7)), alone = together;
    head_rows(matrix, heads, {row}, View<Scalar>(together), serial_executor());
    for (const Index head : heads) matrix_rows(r, head, row, row + 1, View<Scalar>(&alone(head, 0), 1, r.tokens));
    same = same && together == alone;
  }
  CHECK(same);
}

}  // namespace

TEST_CASE("rows of every head recurrence are those of the equation") {
  for_plans_in_both_scalars({1, 2, 9, 40, 130}, 0, [](const Plan& plan, auto scalar) { check_rows_of_plan<decltype(scalar)>(plan); });
}

TEST_CASE("a token that is not a number spoils the entries that depend on it and no others, in every way of making rows") {
  for (Plan plan : plans(100, 4, 3, 21)) {
    plan.extreme = false;
    plan.forgetting = std::min(plan.forgetting, 1.0);
    for (const int part : {0, 1, 2, 3}) {
      HeadRecurrence<double> r = make<double>(plan);
      const Index bad = 41;
      if (!spoil_part(r, part, bad)) continue;
      INFO(plan.text() << ", part " << part);
      for (Index head = 0; head < r.heads; ++head) {
        Matrix<double> plain = Matrix<double>::Zero(r.tokens, r.tokens), all(r.tokens, r.tokens), single(r.tokens, r.tokens);
        for (Index i = 0; i < r.tokens; ++i) {
          plain_head_row(r, head, i, &plain(i, 0));
          matrix_rows(r, head, i, i + 1, View<double>(&single(i, 0), 1, r.tokens));
        }
        matrix_rows(r, head, 0, r.tokens, View<double>(all));
        CHECK((plain.array().isNaN() == all.array().isNaN()).all());
        CHECK((plain.array().isNaN() == single.array().isNaN()).all());
      }
    }
  }
}
