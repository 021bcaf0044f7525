// Applications of recurrences with one matrix a head in chunks of tokens, and token by token, against the equation in double.
#include <algorithm>
#include <limits>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/kernels/head_chunks.hpp>

#include "head_cases.hpp"

namespace {

using namespace head_cases;

template <class Scalar>
void check_scans_of_plan(const Plan& plan) {
  INFO((sizeof(Scalar) == 4 ? "float, " : "double, ") << plan.text());
  const HeadRecurrence<Scalar> r = make<Scalar>(plan);
  r.check();
  Draw draw(plan.seed + 1000);
  const Matrix<Scalar> x = draw.normals<Scalar>(r.tokens, r.channels), g = draw.normals<Scalar>(r.tokens, r.channels),
                       initial = draw.normals<Scalar>(r.heads * r.state, r.head_channels()), none;
  Matrix<double> transposed = Matrix<double>::Zero(r.tokens, r.channels);
  for (Index head = 0; head < r.heads; ++head)
    transposed.middleCols(head * r.head_channels(), r.head_channels()) =
        matrix_by_equation(r, head).transpose() * g.template cast<double>().middleCols(head * r.head_channels(), r.head_channels());

  Matrix<double> final_expected;
  const Matrix<double> expected = application_by_equation(r, x, initial, &final_expected);
  Matrix<Scalar> out = Matrix<Scalar>::Constant(r.tokens, r.channels, Scalar(7)),
                 final_state = Matrix<Scalar>::Constant(r.heads * r.state, r.head_channels(), Scalar(7));
  View<Scalar> final_view(final_state);
  head_scan(r, Array<Scalar>::view(x), Array<Scalar>::view(initial), View<Scalar>(out), serial_executor(), &final_view);
  check_rows<Scalar>(out, expected, "scan");
  check_rows<Scalar>(final_state, final_expected, "final state");
  plain_head_scan(r, Array<Scalar>::view(x), Array<Scalar>::view(initial), View<Scalar>(out), serial_executor(), &final_view);
  check_rows<Scalar>(out, expected, "plain scan");
  head_scan(r, Array<Scalar>::view(x), Array<Scalar>(), View<Scalar>(out), serial_executor());
  check_rows<Scalar>(out, application_by_equation(r, x, none), "scan without a state");
  head_scan(r, Array<Scalar>(), Array<Scalar>::view(initial), View<Scalar>(out), serial_executor());
  check_rows<Scalar>(out, application_by_equation(r, none, initial), "scan of the state alone");

  head_scan_transposed(r, ConstView<Scalar>(g), View<Scalar>(out), serial_executor());
  check_rows<Scalar>(out, transposed, "transposed scan");
  plain_head_scan_transposed(r, ConstView<Scalar>(g), View<Scalar>(out), serial_executor());
  check_rows<Scalar>(out, transposed, "plain transposed scan");
}

}  // namespace

TEST_CASE("scans, transposed scans and states of every head recurrence are those of the equation") {
  for_plans_in_both_scalars({1, 2, 9, 40, 130}, 0, [](const Plan& plan, auto scalar) { check_scans_of_plan<decltype(scalar)>(plan); });
}

TEST_CASE("scans of head recurrences give the same bits for any number of workers") {
  const Executor executor = thread_executor(3);
  for (Plan plan : plans(100, 6, 5, 7)) {
    const HeadRecurrence<float> r = make<float>(plan);
    INFO(plan.text());
    Draw draw(3);
    const Matrix<float> x = draw.normals<float>(r.tokens, r.channels);
    Matrix<float> one(r.tokens, r.channels), many(r.tokens, r.channels);
    head_scan(r, Array<float>::view(x), Array<float>(), View<float>(one), serial_executor());
    head_scan(r, Array<float>::view(x), Array<float>(), View<float>(many), executor);
    CHECK((one.array() == many.array()).all());
    head_scan_transposed(r, ConstView<float>(x), View<float>(one), serial_executor());
    head_scan_transposed(r, ConstView<float>(x), View<float>(many), executor);
    CHECK((one.array() == many.array()).all());
  }
}

TEST_CASE("a token that is not a number spoils what a scan makes of it and nothing else, in chunks as token by token") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  for (Plan plan : plans(100, 4, 3, 21)) {
    plan.extreme = false;
    plan.forgetting = std::min(plan.forgetting, 1.0);
    for (const int part : {0, 1, 2, 3, 4}) {
      HeadRecurrence<double> r = make<double>(plan);
      const Index bad = 41;
      Matrix<double> x = Draw(5).normals<double>(r.tokens, r.channels);
      if (part < 4 && !spoil_part(r, part, bad)) continue;
      if (part == 4) x.row(bad).setConstant(nan);
      INFO(plan.text() << ", part " << part);
      Matrix<double> plain(r.tokens, r.channels), fast(r.tokens, r.channels);
      plain_head_scan(r, Array<double>::view(x), Array<double>(), View<double>(plain), serial_executor());
      head_scan(r, Array<double>::view(x), Array<double>(), View<double>(fast), serial_executor());
      CHECK((plain.array().isNaN() == fast.array().isNaN()).all());
      CHECK(!fast.topRows(bad).array().isNaN().any());
      plain_head_scan_transposed(r, ConstView<double>(x), View<double>(plain), serial_executor());
      head_scan_transposed(r, ConstView<double>(x), View<double>(fast), serial_executor());
      CHECK((plain.array().isNaN() == fast.array().isNaN()).all());
    }
  }
}

TEST_CASE("a decay before the first token of a document, or behind the last one, that nothing reads may be NaN") {
  for_unused_transitions([](const HeadRecurrence<double>& clean) {
    const Index tokens = clean.tokens;
    const Matrix<double> x = Draw(5).normals<double>(tokens, clean.channels);
    Matrix<double> expected_state;
    const Matrix<double> expected = application_by_equation(clean, x, Matrix<double>(), &expected_state);
    Matrix<double> out(tokens, clean.channels), state(clean.heads * clean.state, clean.head_channels());
    View<double> final_state(state);
    const HeadRecurrence<double> first = with_unused_nan(clean, false), unused = with_unused_nan(clean, true);
    plain_head_scan(first, Array<double>::view(x), Array<double>(), View<double>(out), serial_executor(), &final_state);
    check_rows<double>(out, expected, "plain scan");
    check_rows<double>(state, expected_state, "state behind the plain scan");
    head_scan(first, Array<double>::view(x), Array<double>(), View<double>(out), serial_executor(), &final_state);
    check_rows<double>(out, expected, "scan");
    check_rows<double>(state, expected_state, "state behind the scan");
    head_scan(unused, Array<double>::view(x), Array<double>(), View<double>(out), serial_executor());
    check_rows<double>(out, expected, "scan, and no more");
    Matrix<double> transposed(tokens, clean.channels);
    for (Index head = 0; head < clean.heads; ++head) {
      const Index values = clean.head_channels();
      transposed.middleCols(head * values, values) = matrix_by_equation(clean, head).transpose() * x.middleCols(head * values, values);
    }
    plain_head_scan_transposed(unused, ConstView<double>(x), View<double>(out), serial_executor());
    check_rows<double>(out, transposed, "plain transposed scan");
    head_scan_transposed(unused, ConstView<double>(x), View<double>(out), serial_executor());
    check_rows<double>(out, transposed, "transposed scan");
  });
}
