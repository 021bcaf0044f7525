// Recurrences with one matrix a head: rows, scan, transposed scan and gradient against the equation, token by token in double.
#include <functional>
#include <utility>

#include <support/catch.hpp>
#include <support/errors.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/kernels/surrounded_matrix.hpp>

#include "head_cases.hpp"

namespace {

using namespace head_cases;

/// A row's error against its largest entry, or against the size of what is summed where that cancels (inputs are of size 1). Sums of up to some hundred products of ordinary numbers, and products of as many decays; with
/// keys that are removed twice over (beta 2, repeated) rounding errors do not fade.
template <class Scalar>
constexpr double tolerance = sizeof(Scalar) == 4 ? 2e-5 : 2e-13;

template <class Scalar>
void check_near(const Matrix<Scalar>& got, const Matrix<double>& expected, const char* what, double floor = 1) {
  INFO(what);
  REQUIRE(got.rows() == expected.rows());
  REQUIRE(got.cols() == expected.cols());
  double worst = 0;
  for (Index i = 0; i < got.rows(); ++i) {
    const double scale = std::max(expected.row(i).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>(), floor);
    for (Index j = 0; j < got.cols(); ++j) {
      const double error = std::abs(static_cast<double>(got(i, j)) - expected(i, j)) / scale;
      worst = error >= 0 && error <= worst ? worst : error;  // NaN is kept
    }
  }
  CHECK(worst <= tolerance<Scalar>);
}

template <class Scalar>
void check_plan(const Plan& plan) {
  INFO((sizeof(Scalar) == 4 ? "float, " : "double, ") << plan.text());
  const HeadRecurrence<Scalar> r = make<Scalar>(plan);
  r.check();
  Draw draw(plan.seed + 1000);
  const Matrix<Scalar> x = draw.normals<Scalar>(r.tokens, r.channels), g = draw.normals<Scalar>(r.tokens, r.channels),
                       initial = draw.normals<Scalar>(r.heads * r.state, r.head_channels()), none;
  Matrix<double> transposed = Matrix<double>::Zero(r.tokens, r.channels);
  for (Index head = 0; head < r.heads; ++head) {
    const Matrix<double> expected = matrix_by_equation(r, head);
    transposed.middleCols(head * r.head_channels(), r.head_channels()) =
        expected.transpose() * g.template cast<double>().middleCols(head * r.head_channels(), r.head_channels());
    constexpr double floor = 0.1;  // a row's query . key is of size 1, also where it cancels or another diagonal replaces it
    Matrix<Scalar> rows = Matrix<Scalar>::Constant(r.tokens, r.tokens, Scalar(7));
    matrix_rows(r, head, 0, r.tokens, View<Scalar>(rows));
    check_near<Scalar>(rows, expected, "all rows", floor);
    bool zeros = true;
    for (Index i = 0; i < r.tokens; ++i)
      for (Index j = 0; j < r.tokens; ++j)
        if (j > i || j < r.first_visible(i)) zeros = zeros && rows(i, j) == Scalar(0);
    CHECK(zeros);
    // One row after the other, and a few from the middle.
    Matrix<Scalar> single = Matrix<Scalar>::Constant(r.tokens, r.tokens, Scalar(7));
    for (Index i = 0; i < r.tokens; ++i) matrix_rows(r, head, i, i + 1, View<Scalar>(&single(i, 0), 1, r.tokens));
    check_near<Scalar>(single, expected, "single rows", floor);
    const Index begin = r.tokens / 3, end = std::max(begin + 1, r.tokens - r.tokens / 4);
    Matrix<Scalar> part = Matrix<Scalar>::Constant(end - begin, r.tokens, Scalar(7));
    matrix_rows(r, head, begin, end, View<Scalar>(part));
    check_near<Scalar>(part, expected.middleRows(begin, end - begin), "rows from the middle", floor);
    Matrix<Scalar> plain = Matrix<Scalar>::Zero(r.tokens, r.tokens);
    for (Index i = 0; i < r.tokens; ++i) plain_head_row(r, head, i, &plain(i, 0));
    check_near<Scalar>(plain, expected, "plain rows", floor);
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

  Matrix<double> final_expected;
  const Matrix<double> expected = application_by_equation(r, x, initial, &final_expected);
  Matrix<Scalar> out = Matrix<Scalar>::Constant(r.tokens, r.channels, Scalar(7)),
                 final_state = Matrix<Scalar>::Constant(r.heads * r.state, r.head_channels(), Scalar(7));
  View<Scalar> final_view(final_state);
  head_scan(r, Array<Scalar>::view(x), Array<Scalar>::view(initial), View<Scalar>(out), serial_executor(), &final_view);
  check_near<Scalar>(out, expected, "scan");
  check_near<Scalar>(final_state, final_expected, "final state");
  plain_head_scan(r, Array<Scalar>::view(x), Array<Scalar>::view(initial), View<Scalar>(out), serial_executor(), &final_view);
  check_near<Scalar>(out, expected, "plain scan");
  head_scan(r, Array<Scalar>::view(x), Array<Scalar>(), View<Scalar>(out), serial_executor());
  check_near<Scalar>(out, application_by_equation(r, x, none), "scan without a state");
  head_scan(r, Array<Scalar>(), Array<Scalar>::view(initial), View<Scalar>(out), serial_executor());
  check_near<Scalar>(out, application_by_equation(r, none, initial), "scan of the state alone");

  head_scan_transposed(r, ConstView<Scalar>(g), View<Scalar>(out), serial_executor());
  check_near<Scalar>(out, transposed, "transposed scan");
  plain_head_scan_transposed(r, ConstView<Scalar>(g), View<Scalar>(out), serial_executor());
  check_near<Scalar>(out, transposed, "plain transposed scan");
}

/// d L of every number of `array` against differences of L = <g, scan>, in double.
void check_gradient(const HeadRecurrence<double>& r, Array<double> HeadRecurrence<double>::*member, const Matrix<double>& gradient,
                    const std::function<double(const HeadRecurrence<double>&)>& loss, const char* what) {
  INFO(what);
  const Matrix<double> numbers = (r.*member).matrix();
  REQUIRE(gradient.rows() == numbers.rows());
  REQUIRE(gradient.cols() == numbers.cols());
  constexpr double step = 1e-5;
  double worst = 0, largest = 1e-3;
  for (Index i = 0; i < numbers.size(); ++i) {
    if (std::isinf(numbers.data()[i])) continue;
    HeadRecurrence<double> moved = r;
    Matrix<double> up = numbers, down = numbers;
    up.data()[i] += step;
    down.data()[i] -= step;
    moved.*member = up;
    const double above = loss(moved);
    moved.*member = down;
    const double difference = (above - loss(moved)) / (2 * step);
    worst = larger(worst, std::abs(difference - gradient.data()[i]));
    largest = larger(largest, std::abs(difference));
  }
  CHECK(worst <= 1e-7 * largest);  // the differences' own error: step^2 and 1e-16 / step, times sums of a hundred terms
}

}  // namespace

TEST_CASE("rows, scans and states of every head recurrence are those of the equation") {
  std::uint64_t seed = 0;
  for (const Index tokens : {1, 2, 9, 40, 130})
    for (const auto& [state, values] : {std::pair<Index, Index>(1, 1), std::pair<Index, Index>(5, 3), std::pair<Index, Index>(17, 8)})
      for (const Plan& plan : plans(tokens, state, values, seed += 50)) {
        check_plan<double>(plan);
        check_plan<float>(plan);
      }
}

TEST_CASE("the gradient of every factor of a head recurrence is that of finite differences") {
  for (const Index tokens : {1, 7, 70})
    for (Plan plan : plans(tokens, 3, 2, static_cast<std::uint64_t>(tokens))) {
      if (tokens == 70 && plan.seed % 4 != 0) continue;
      if (tokens > 7) plan.forgetting = std::min(plan.forgetting, 1.0);
      plan.heads = plan.groups * 2;
      INFO(plan.text());
      const HeadRecurrence<double> r = make<double>(plan);
      Draw draw(plan.seed);
      const Matrix<double> x = draw.normals<double>(r.tokens, r.channels), g = draw.normals<double>(r.tokens, r.channels),
                           initial = draw.normals<double>(r.heads * r.state, r.head_channels());
      const auto loss = [&](const HeadRecurrence<double>& moved) {
        return application_by_equation(moved, x, initial).cwiseProduct(g).sum();
      };
      const HeadScanGradient<double> gradient =
          head_scan_gradient(r, ConstView<double>(x), Array<double>::view(initial), ConstView<double>(g), serial_executor());
      check_gradient(r, &HeadRecurrence<double>::query, gradient.query, loss, "query");
      check_gradient(r, &HeadRecurrence<double>::key, gradient.key, loss, "key");
      if (!r.key_scale.empty()) check_gradient(r, &HeadRecurrence<double>::key_scale, gradient.key_scale, loss, "key_scale");
      if (!r.log_decay.empty()) check_gradient(r, &HeadRecurrence<double>::log_decay, gradient.log_decay, loss, "log_decay");
      if (!r.diagonal.empty()) check_gradient(r, &HeadRecurrence<double>::diagonal, gradient.diagonal, loss, "diagonal");
      if (r.transition == Transition::rank_one) {
        check_gradient(r, &HeadRecurrence<double>::removal, gradient.removal, loss, "removal");
        check_gradient(r, &HeadRecurrence<double>::probe, gradient.probe, loss, "probe");
      }
      Matrix<double> transposed(r.tokens, r.channels);
      plain_head_scan_transposed(r, ConstView<double>(g), View<double>(transposed), serial_executor());
      CHECK((transposed - gradient.input).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <
            1e-12 * std::max(1.0, transposed.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
    }
}

TEST_CASE("a row of many heads is each head's, whatever the batches and the workers") {
  for (const Transition transition : {Transition::delta, Transition::rank_one, Transition::diagonal}) {
    Plan plan;
    plan.transition = transition;
    plan.decay = Decay::state;
    plan.tokens = 21;
    plan.state = 19;
    plan.heads = 35;
    plan.groups = 5;
    const HeadRecurrence<float> r = make<float>(plan);
    std::vector<Index> heads;
    for (Index head = 34; head >= 0; head -= head == 20 ? 3 : 1) heads.push_back(head);
    const Index count = static_cast<Index>(heads.size());
    for (const Executor& executor : {serial_executor(), thread_executor(3)}) {
      Matrix<float> rows = Matrix<float>::Constant(count, r.tokens, 7), alone = rows;
      head_rows(SharedMatrix<float>(r), heads, {17}, View<float>(rows), executor);
      for (Index i = 0; i < count; ++i) matrix_rows(r, heads[static_cast<std::size_t>(i)], 17, 18, View<float>(&alone(i, 0), 1, r.tokens));
      CHECK(rows == alone);
    }
  }
}

TEST_CASE("head recurrences give the same bits for any number of workers") {
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

TEST_CASE("a token that is not a number spoils what depends on it and nothing else, on every way") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  for (Plan plan : plans(100, 4, 3, 21)) {
    plan.extreme = false;
    plan.forgetting = std::min(plan.forgetting, 1.0);
    for (const int part : {0, 1, 2, 3, 4}) {
      HeadRecurrence<double> r = make<double>(plan);
      const Index bad = 41;
      Matrix<double> x = Draw(5).normals<double>(r.tokens, r.channels);
      const auto spoil = [&](Array<double>& array) {
        Matrix<double> numbers = array.matrix();
        numbers.row(bad).setConstant(nan);
        array = numbers;
      };
      if (part == 0) spoil(r.query);
      if (part == 1) spoil(r.key);
      if (part == 2 && r.log_decay.rows() != r.tokens) continue;
      if (part == 2) spoil(r.log_decay);
      if (part == 3 && r.transition != Transition::rank_one) continue;
      if (part == 3) spoil(r.probe);
      if (part == 4) x.row(bad).setConstant(nan);
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
    check_near<double>(out, expected, "plain scan");
    check_near<double>(state, expected_state, "state behind the plain scan");
    head_scan(first, Array<double>::view(x), Array<double>(), View<double>(out), serial_executor(), &final_state);
    check_near<double>(out, expected, "scan");
    check_near<double>(state, expected_state, "state behind the scan");
    head_scan(unused, Array<double>::view(x), Array<double>(), View<double>(out), serial_executor());
    check_near<double>(out, expected, "scan, and no more");
    Matrix<double> transposed(tokens, clean.channels);
    for (Index head = 0; head < clean.heads; ++head) {
      const Index values = clean.head_channels();
      transposed.middleCols(head * values, values) = matrix_by_equation(clean, head).transpose() * x.middleCols(head * values, values);
    }
    plain_head_scan_transposed(unused, ConstView<double>(x), View<double>(out), serial_executor());
    check_near<double>(out, transposed, "plain transposed scan");
    head_scan_transposed(unused, ConstView<double>(x), View<double>(out), serial_executor());
    check_near<double>(out, transposed, "transposed scan");
  });
}

TEST_CASE("a head recurrence without channels, or with channels that do not divide, says so") {
  HeadRecurrence<double> r = make<double>(Plan());
  r.channels = 0;
  CHECK_THAT(test_support::what_of([&] { r.check(); }), contains_text("HeadRecurrence: there are no channels, expected at least 1"));
  r.channels = 5;
  CHECK_THAT(test_support::what_of([&] { r.check(); }), contains_text("HeadRecurrence: 5 channels do not divide into 2 heads"));
}
