// The gradients of a recurrence with one matrix a head, in chunks of tokens, against the walk over tokens and finite differences.
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/core/thread_executor.hpp>

#include "head_cases.hpp"
#include "plain_head_gradient.hpp"

namespace {

using namespace head_cases;

/// The parts of a gradient, by name; what the recurrence does not have is empty.
template <class Scalar>
std::vector<std::pair<const char*, const Matrix<Scalar>*>> parts_of(const HeadScanGradient<Scalar>& gradient) {
  return {{"input", &gradient.input},         {"query", &gradient.query},         {"key", &gradient.key},
          {"key_scale", &gradient.key_scale}, {"log_decay", &gradient.log_decay}, {"removal", &gradient.removal},
          {"probe", &gradient.probe},         {"diagonal", &gradient.diagonal}};
}

template <class Scalar>
HeadScanGradient<Scalar> gradient_of(const HeadRecurrence<Scalar>& r, const Matrix<Scalar>& x, const Matrix<Scalar>& initial,
                                     const Matrix<Scalar>& g, const Executor& executor = serial_executor()) {
  return head_scan_gradient(r, ConstView<Scalar>(x), Array<Scalar>::view(initial), ConstView<Scalar>(g), executor);
}

/// The chunked gradient against the walk over tokens in double.
template <class Scalar>
void check_gradient_plan(const Plan& plan) {
  INFO((sizeof(Scalar) == 4 ? "float, " : "double, ") << plan.text());
  const HeadRecurrence<Scalar> r = make<Scalar>(plan);
  Draw draw(plan.seed + 2000);
  const Matrix<Scalar> x = draw.normals<Scalar>(r.tokens, r.channels), g = draw.normals<Scalar>(r.tokens, r.channels),
                       initial = draw.normals<Scalar>(r.heads * r.state, r.head_channels());
  const Matrix<double> exact_x = x.template cast<double>(), exact_g = g.template cast<double>(),
                       exact_initial = initial.template cast<double>();
  const HeadRecurrence<double> exact = in_double(r);
  const HeadScanGradient<Scalar> got = gradient_of(r, x, initial, g);
  const HeadScanGradient<double> expected = plain_head_gradient(exact, exact_x, exact_initial, exact_g);
  const auto got_parts = parts_of(got);
  const auto expected_parts = parts_of(expected);
  // A constant decay's gradient is that of all readers, times what they are, less that of all writers: it may cancel.
  double summed = 0;
  for (Index t = 0; t < r.tokens; ++t)
    summed += std::max(exact.query.matrix().cwiseProduct(expected.query).row(t).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>(),
                       exact.key.matrix().cwiseProduct(expected.key).row(t).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
  for (std::size_t part = 0; part < got_parts.size(); ++part) {
    INFO(got_parts[part].first);
    const Matrix<Scalar>& found = *got_parts[part].second;
    const Matrix<double>& wanted = *expected_parts[part].second;
    REQUIRE(found.rows() == wanted.rows());
    REQUIRE(found.cols() == wanted.cols());
    if (wanted.size() == 0) continue;
    REQUIRE((found.allFinite() && wanted.allFinite()));  // maxCoeff may pass over a NaN
    const double worst = (found.template cast<double>() - wanted).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
    double size = wanted.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
    if (&found == &got.log_decay && r.log_decay.rows() == 1) size = summed;
    CHECK(worst <= (sizeof(Scalar) == 4 ? 2e-5 : 2e-13) * std::max(1.0, size));
  }
  // Where a decay is 0 or a document starts nothing depends on it.
  bool zeros = true;
  for (Index t = 0; t < r.log_decay.rows(); ++t)
    for (Index c = 0; c < r.log_decay.cols(); ++c)
      if (std::isinf(r.log_decay(t, c)) || (r.log_decay.rows() == r.tokens && r.starts_at(t)))
        zeros = zeros && got.log_decay(t, c) == Scalar(0);
  CHECK(zeros);
}

/// d L of every number of `array` against differences of L = <g, scan>, in double.
void check_differences(const HeadRecurrence<double>& r, Array<double> HeadRecurrence<double>::*member, const Matrix<double>& gradient,
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

TEST_CASE("the gradient of a head recurrence in chunks is that of the walk over tokens") {
  for_plans_in_both_scalars({1, 2, 31, 33, 130}, 300, [](const Plan& plan, auto scalar) { check_gradient_plan<decltype(scalar)>(plan); });
}

TEST_CASE("a token that is not a number spoils those gradients that depend on it and no others") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  for (Plan plan : plans(70, 4, 3, 21)) {
    plan.extreme = false;
    plan.forgetting = std::min(plan.forgetting, 1.0);
    for (const int part : {0, 1, 2, 3, 4, 5}) {
      HeadRecurrence<double> r = make<double>(plan);
      if ((part == 2 && r.log_decay.rows() != r.tokens) || (part == 3 && r.transition != Transition::rank_one)) continue;
      Draw draw(5);
      Matrix<double> x = draw.normals<double>(r.tokens, r.channels), g = draw.normals<double>(r.tokens, r.channels);
      const Matrix<double> initial = draw.normals<double>(r.heads * r.state, r.head_channels());
      const auto spoilt = [&](Matrix<double> numbers) {
        numbers(41, numbers.cols() - 1) = nan;
        return numbers;
      };
      if (part == 0) r.query = spoilt(r.query.matrix());
      if (part == 1) r.key = spoilt(r.key.matrix());
      if (part == 2) r.log_decay = spoilt(r.log_decay.matrix());
      if (part == 3) r.probe = spoilt(r.probe.matrix());
      if (part == 4) x = spoilt(x);
      if (part == 5) g = spoilt(g);
      INFO(plan.text() << ", part " << part);
      const HeadScanGradient<double> chunked = gradient_of(r, x, initial, g), plain = plain_head_gradient(r, x, initial, g);
      const auto chunked_parts = parts_of(chunked), plain_parts = parts_of(plain);
      Index spoilt_numbers = 0;
      for (std::size_t i = 0; i < plain_parts.size(); ++i) {
        INFO(plain_parts[i].first);
        CHECK((plain_parts[i].second->array().isFinite() == chunked_parts[i].second->array().isFinite()).all());
        spoilt_numbers += (!plain_parts[i].second->array().isFinite()).count();
      }
      CHECK(spoilt_numbers > 0);
    }
  }
}

TEST_CASE("gradients of head recurrences have the same bits for any number of workers") {
  const Executor executor = thread_executor(3);
  for (const Plan& plan : plans(100, 6, 5, 7)) {
    const HeadRecurrence<float> r = make<float>(plan);
    INFO(plan.text());
    Draw draw(3);
    const Matrix<float> x = draw.normals<float>(r.tokens, r.channels);
    const Matrix<float> initial = draw.normals<float>(r.heads * r.state, r.head_channels());
    const HeadScanGradient<float> alone = gradient_of(r, x, initial, x), shared = gradient_of(r, x, initial, x, executor);
    const auto alone_parts = parts_of(alone), shared_parts = parts_of(shared);
    for (std::size_t i = 0; i < alone_parts.size(); ++i) CHECK((alone_parts[i].second->array() == shared_parts[i].second->array()).all());
  }
}

TEST_CASE("a decay that nothing reads may be NaN: no gradient changes, its own is 0") {
  for_unused_transitions([](const HeadRecurrence<double>& clean) {
    const Index tokens = clean.tokens;
    Draw draw(5);
    const Matrix<double> x = draw.normals<double>(tokens, clean.channels), g = draw.normals<double>(tokens, clean.channels), none;
    const HeadScanGradient<double> got = gradient_of(with_unused_nan(clean, true), x, none, g),
                                   expected = plain_head_gradient(clean, x, none, g);
    const auto got_parts = parts_of(got), expected_parts = parts_of(expected);
    for (std::size_t part = 0; part < got_parts.size(); ++part) {
      INFO(got_parts[part].first);
      const Matrix<double>&found = *got_parts[part].second, &wanted = *expected_parts[part].second;
      if (wanted.size() == 0) continue;
      REQUIRE(found.allFinite());  // maxCoeff may pass over a NaN
      CHECK((found - wanted).cwiseAbs().maxCoeff() <= 2e-13 * std::max(1.0, wanted.cwiseAbs().maxCoeff()));
    }
  });
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
      check_differences(r, &HeadRecurrence<double>::query, gradient.query, loss, "query");
      check_differences(r, &HeadRecurrence<double>::key, gradient.key, loss, "key");
      if (!r.key_scale.empty()) check_differences(r, &HeadRecurrence<double>::key_scale, gradient.key_scale, loss, "key_scale");
      if (!r.log_decay.empty()) check_differences(r, &HeadRecurrence<double>::log_decay, gradient.log_decay, loss, "log_decay");
      if (!r.diagonal.empty()) check_differences(r, &HeadRecurrence<double>::diagonal, gradient.diagonal, loss, "diagonal");
      if (r.transition == Transition::rank_one) {
        check_differences(r, &HeadRecurrence<double>::removal, gradient.removal, loss, "removal");
        check_differences(r, &HeadRecurrence<double>::probe, gradient.probe, loss, "probe");
      }
      Matrix<double> transposed(r.tokens, r.channels);
      plain_head_scan_transposed(r, ConstView<double>(g), View<double>(transposed), serial_executor());
      CHECK((transposed - gradient.input).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <
            1e-12 * std::max(1.0, transposed.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>()));
    }
}
