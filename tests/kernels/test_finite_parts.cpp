// Recurrences without their numbers that are not finite.
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/finite_parts.hpp>

#include "head_cases.hpp"

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN(), without_end = std::numeric_limits<double>::infinity();

/// One row of a finite number, NaN and both infinities.
implicit_attention::Array<double> row_of_each() {
  implicit_attention::Matrix<double> numbers(1, 4);
  numbers << 3, not_a_number, without_end, -without_end;
  return numbers;
}

implicit_attention::Matrix<double> row_of_four(double a, double b, double c, double d) {
  implicit_attention::Matrix<double> numbers(1, 4);
  numbers << a, b, c, d;
  return numbers;
}

}  // namespace

TEST_CASE("the finite part of an array has zeros for what is not finite, except what is allowed; a finite array is itself", "[kernels]") {
  using namespace implicit_attention;
  CHECK(detail::finite_part(row_of_each()).matrix() == row_of_four(3, 0, 0, 0));
  CHECK(detail::finite_part(row_of_each(), std::optional(without_end)).matrix() == row_of_four(3, 0, without_end, 0));
  CHECK(detail::finite_part(row_of_each(), std::optional(-without_end)).matrix() == row_of_four(3, 0, 0, -without_end));
  CHECK(detail::finite_part(Array<double>()).empty());
  const Array<double> finite = row_of_four(1, 2, 3, 4);
  CHECK(detail::finite_part(finite).data() == finite.data());  // not a copy
  Matrix<double> numbers = row_of_each().matrix();
  detail::keep_finite(numbers);
  CHECK(numbers == row_of_four(3, 0, 0, 0));
}

TEST_CASE("the finite part of a surrounded recurrence keeps the step that is a decay of zero, and no other infinity", "[kernels]") {
  using namespace implicit_attention;
  SurroundedDiagonal<double> surrounded;
  DiagonalRecurrence<double>& r = surrounded.recurrence;
  r.tokens = 1;
  r.channels = 4;
  for (Array<double>* array :
       {&r.step, &r.query, &r.key, &r.query_scale, &r.key_scale, &r.diagonal, &surrounded.gate, &surrounded.row_weights, &surrounded.skip,
        &surrounded.activation, &surrounded.taps, &surrounded.column_weights})
    *array = row_of_each();
  for (const bool rates : {false, true}) {
    r.rate = rates ? row_of_each() : Array<double>();
    const SurroundedDiagonal<double> finite = detail::finite_part(surrounded);
    const DiagonalRecurrence<double>& f = finite.recurrence;
    CHECK(f.step.matrix() == (rates ? row_of_four(3, 0, without_end, 0) : row_of_four(3, 0, 0, -without_end)));
    CHECK(f.rate.empty() == !rates);
    if (rates) CHECK(f.rate.matrix() == row_of_four(3, 0, 0, 0));
    for (const Array<double>* array : {&f.query, &f.key, &f.query_scale, &f.key_scale, &f.diagonal, &finite.gate, &finite.row_weights,
                                       &finite.skip, &finite.activation, &finite.taps, &finite.column_weights})
      CHECK(array->matrix() == row_of_four(3, 0, 0, 0));
  }
}

TEST_CASE("the finite part of a head is that head by itself, whatever the others hold", "[kernels]") {
  for (const head_cases::Plan& plan : head_cases::plans(9, 3, 2, 81)) {
    INFO(plan.text());
    const head_cases::HeadRecurrence<double> r = head_cases::make<double>(plan);
    for (implicit_attention::Index head = 0; head < r.heads; ++head) {
      const head_cases::HeadRecurrence<double> one = implicit_attention::detail::finite_part(r, head);
      one.check();
      CHECK(one.channels == r.head_channels());
      CHECK(head_cases::matrix_by_equation(one, 0) == head_cases::matrix_by_equation(r, head));
    }
  }
}

TEST_CASE("a token is finite for a head where all that the head reads of it is, decays of zero included", "[kernels]") {
  using namespace implicit_attention;
  for (const head_cases::Decay decay : {head_cases::Decay::head, head_cases::Decay::state}) {
    head_cases::Plan plan;
    plan.transition = Transition::rank_one;
    plan.decay = decay;
    plan.heads = 4;
    plan.groups = 2;
    plan.diagonal = true;
    const HeadRecurrence<double> clean = head_cases::make<double>(plan);
    using R = HeadRecurrence<double>;
    for (Array<double> R::*const member : {&R::query, &R::key, &R::key_scale, &R::log_decay, &R::removal, &R::probe, &R::diagonal})
      for (const double bad : {not_a_number, without_end, -without_end}) {
        R r = clean;
        Matrix<double> numbers = (clean.*member).matrix();
        numbers(2, numbers.cols() - 1) = bad;  // of the last head, or the last group
        r.*member = numbers;
        const bool of_group = member == &R::query || member == &R::key, zero_decay = member == &R::log_decay && bad < 0;
        for (Index token = 0; token < r.tokens; ++token)
          for (Index head = 0; head < r.heads; ++head) {
            const bool reads = token == 2 && (head == 3 || (head == 2 && of_group));
            CHECK(detail::is_finite_token(r, head, token) == (!reads || zero_decay));
          }
      }
  }
}
