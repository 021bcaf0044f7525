// What a diagonal recurrence and its surroundings say of themselves: checks by name, and what a token can see.
#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <support/catch.hpp>
#include <support/errors.hpp>

#include <implicit_attention/kernels/recurrence.hpp>

namespace {

using namespace implicit_attention;

/// A recurrence with every array, all of which fit.
DiagonalRecurrence<double> whole_recurrence() {
  DiagonalRecurrence<double> r;
  r.tokens = 5;
  r.channels = 4;
  r.state = 3;
  const Matrix<double> by_channel = Matrix<double>::Zero(5, 4), by_state = Matrix<double>::Zero(5, 3);
  r.step = r.query_scale = r.key_scale = r.diagonal = by_channel;
  r.query = r.key = by_state;
  r.rate = Matrix<double>(Matrix<double>::Zero(3, 4));
  r.read_before_update = true;
  r.starts = {0, 3};
  return r;
}

}  // namespace

TEST_CASE("a diagonal recurrence refuses an array of a wrong shape by its name", "[kernels]") {
  using R = DiagonalRecurrence<double>;
  whole_recurrence().check();
  const std::vector<std::pair<const char*, Array<double> R::*>> arrays = {
      {"step", &R::step},           {"rate", &R::rate},        {"query", &R::query}, {"key", &R::key}, {"query_scale", &R::query_scale},
      {"key_scale", &R::key_scale}, {"diagonal", &R::diagonal}};
  for (const auto& [name, member] : arrays) {
    const Array<double> right = (whole_recurrence().*member);
    for (const auto& [rows, columns] : {std::pair(right.rows() + 1, right.cols()), std::pair(right.rows(), right.cols() - 1)}) {
      R r = whole_recurrence();
      r.*member = Matrix<double>(Matrix<double>::Zero(rows, columns));
      const auto [kind, what] = test_support::error_of([&] { r.check(); });
      CHECK(kind == ErrorKind::shape);
      CHECK_THAT(what, contains_text("DiagonalRecurrence: " + std::string(name) + " is " + shape_text({rows, columns}) + ", expected " +
                                     shape_text({right.rows(), right.cols()})));
    }
  }
}

TEST_CASE("a diagonal recurrence needs its step, rates of several states, and a diagonal where it reads before the update", "[kernels]") {
  DiagonalRecurrence<double> least;
  least.tokens = 5;
  least.channels = 4;
  CHECK_THAT(test_support::what_of([&] { least.check(); }), contains_text("DiagonalRecurrence: step is"));
  least.step = whole_recurrence().step;
  least.check();  // all else stands for ones
  DiagonalRecurrence<double> r = least;
  r.state = 3;
  CHECK_THAT(test_support::what_of([&] { r.check(); }), contains_text("DiagonalRecurrence: rate is"));
  r = least;
  r.read_before_update = true;
  CHECK_THAT(test_support::what_of([&] { r.check(); }), contains_text("DiagonalRecurrence: diagonal is"));
  r = least;
  r.state = 0;
  CHECK_THAT(test_support::what_of([&] { r.check(); }), contains_text("DiagonalRecurrence: state is 0, expected at least 1"));
  r = least;
  r.tokens = -1;
  CHECK_THAT(test_support::what_of([&] { r.check(); }), contains_text("DiagonalRecurrence: tokens is -1, expected at least 0"));
}

TEST_CASE("starts of documents are tokens in ascending order", "[kernels]") {
  for (const std::vector<Index>& good : {std::vector<Index>{}, {0}, {4}, {0, 1, 4}}) check_ascending("someone", "starts", good, 5);
  for (const std::vector<Index>& bad : {std::vector<Index>{-1}, {5}, {2, 2}, {3, 1}, {0, 1, 9}}) {
    const auto [kind, what] = test_support::error_of([&] { check_ascending("someone", "starts", bad, 5); });
    CHECK(kind == ErrorKind::value);
    CHECK_THAT(what, contains_text("someone: starts has " + std::to_string(bad.back())));
  }
}

TEST_CASE("what a token sees, and how far the convolution carries it, end with its document", "[kernels]") {
  SurroundedDiagonal<double> surrounded;
  surrounded.recurrence.tokens = 12;
  CHECK(surrounded.width() == 1);
  surrounded.taps = Matrix<double>(Matrix<double>::Ones(4, 1));
  CHECK(surrounded.width() == 4);
  for (const std::vector<Index>& starts : {std::vector<Index>{}, {0}, {3}, {0, 5, 6, 11}}) {
    surrounded.recurrence.starts = surrounded.convolution_starts = starts;
    for (Index token = 0; token < 12; ++token) {
      INFO("token " << token << ", " << starts.size() << " starts");
      Index before = std::numeric_limits<Index>::min(), after = 12;
      for (const Index start : starts) {
        if (start <= token) before = start;
        if (start > token && start < after) after = start;
      }
      CHECK(surrounded.recurrence.first_visible(token) == std::max(before, Index(0)));
      CHECK(surrounded.convolution_start(token) == before);
      CHECK(surrounded.next_convolution_start(token) == after);
      CHECK(surrounded.last_reached(token) == std::min(token + 3, after - 1));
    }
  }
}
