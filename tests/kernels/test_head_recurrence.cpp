// Recurrences with one matrix a head: their checks, and their plain rows against the equation, token by token in double.
#include <support/catch.hpp>
#include <support/errors.hpp>

#include "head_cases.hpp"

namespace {

using namespace head_cases;

template <class Scalar>
void check_plain_rows_of_plan(const Plan& plan) {
  INFO((sizeof(Scalar) == 4 ? "float, " : "double, ") << plan.text());
  const HeadRecurrence<Scalar> r = make<Scalar>(plan);
  for (Index head = 0; head < r.heads; ++head) {
    Matrix<Scalar> rows = Matrix<Scalar>::Zero(r.tokens, r.tokens);
    bool right = true;
    for (Index i = 0; i < r.tokens; ++i) right = right && plain_head_row(r, head, i, &rows(i, 0)) == r.first_visible(i);
    CHECK(right);
    check_rows<Scalar>(rows, matrix_by_equation(r, head), "plain rows", 0.1);
  }
}

}  // namespace

TEST_CASE("plain rows of every head recurrence are those of the equation") {
  std::uint64_t seed = 0;
  for (const Index tokens : {1, 2, 9, 40, 130})
    for (const Index state : {1, 5, 17})
      for (const Plan& plan : plans(tokens, state, 2, seed += 50)) {
        check_plain_rows_of_plan<double>(plan);
        check_plain_rows_of_plan<float>(plan);
      }
}

TEST_CASE("a head recurrence without channels, or with channels that do not divide, says so") {
  HeadRecurrence<double> r = make<double>(Plan());
  r.channels = 0;
  CHECK_THAT(test_support::what_of([&] { r.check(); }), contains_text("HeadRecurrence: there are no channels, expected at least 1"));
  r.channels = 5;
  CHECK_THAT(test_support::what_of([&] { r.check(); }), contains_text("HeadRecurrence: 5 channels do not divide into 2 heads"));
}
