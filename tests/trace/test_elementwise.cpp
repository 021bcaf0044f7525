#include <cmath>
#include <limits>
#include <vector>

#include <catch2/catch.hpp>

#include <implicit_attention/trace/elementwise.hpp>

using namespace implicit_attention;

namespace {

Matrix<double> numbers() { return Matrix<double>::Random(5, 7); }

}  // namespace

TEST_CASE("operations: a value whose last use this is gives its memory to the result", "[trace]") {
  Trace<double> trace;
  const Matrix<double> a = numbers(), b = numbers();
  const auto made = [&](const Matrix<double>& of) { return trace.constant(Array<double>(Matrix<double>(of))); };
  /// The result of operation(value), whether the value is moved in or not; whether it took the memory.
  const auto check = [&](const auto& operation) {
    Value<double> kept = made(a), given = made(a);
    const double* const memory = given.numbers.data();
    const Value<double> fresh = operation(kept), taken = operation(std::move(given));
    CHECK(fresh.numbers.matrix() == taken.numbers.matrix());
    CHECK(fresh.numbers.data() != kept.numbers.data());
    CHECK(kept.numbers.matrix() == a);
    CHECK(taken.numbers.data() == memory);
  };
  const Value<double> other = made(b);
  check([](Value<double> x) { return apply_function(Function::relu_squared, std::move(x)); });
  check([](Value<double> x) { return sigmoid(std::move(x)); });
  check([](Value<double> x) { return silu(std::move(x)); });
  check([](Value<double> x) { return softplus(std::move(x)); });
  check([](Value<double> x) { return times(std::move(x), 3.0); });
  check([&](Value<double> x) { return add(std::move(x), other); });
  check([&](Value<double> x) { return add(other, std::move(x)); });
  check([&](Value<double> x) { return product(std::move(x), other); });
  check([&](Value<double> x) { return gate(other, std::move(x)); });
  check([&](Value<double> x) { return scale(std::move(x), other); });
  check([&](Value<double> x) { return gated_product(Function::silu, std::move(x), other); });
  CHECK(other.numbers.matrix() == b);
}

TEST_CASE("operations: a recorded pass keeps no numbers that its way back does not read", "[trace]") {
  Trace<double> trace(true);
  const Matrix<double> a = numbers();
  const auto check = [&](const auto& operation) {
    Value<double> given = trace.input(Array<double>(Matrix<double>(a)));
    const Value<double> kept = given, expected = operation(kept);
    CHECK(kept.numbers.matrix() == a);
    given = trace.input(Array<double>(Matrix<double>(a)));
    const double* const memory = given.numbers.data();
    const Value<double> taken = operation(std::move(given));
    CHECK(taken.numbers.data() == memory);
    CHECK(taken.numbers.matrix() == expected.numbers.matrix());
  };
  const Matrix<double> b = numbers();
  const Value<double> other = trace.input(Array<double>(Matrix<double>(b)));
  check([](Value<double> x) { return softplus(std::move(x)); });
  check([](Value<double> x) { return times(std::move(x), 3.0); });
  check([&](Value<double> x) { return add(other, std::move(x)); });
  CHECK(other.numbers.matrix() == b);
}

TEST_CASE("operations: numbers that anybody else looks at are never changed", "[trace]") {
  const Matrix<double> a = numbers();
  SECTION("a recorded pass reads them on its way back") {
    Trace<double> trace(true);
    const Value<double> input = trace.input(Array<double>(Matrix<double>(a)));
    Value<double> x = times(input, 2.0), constant = trace.constant(Array<double>(Matrix<double>(a)));
    const double *const of_x = x.numbers.data(), *const of_constant = constant.numbers.data();
    const Value<double> out = sigmoid(std::move(x)), held = sigmoid(std::move(constant));
    CHECK(out.numbers.data() != of_x);
    CHECK(held.numbers.data() != of_constant);
  }
  Trace<double> trace;
  SECTION("a second array, or a part of one, shares them") {
    Value<double> x = trace.constant(Array<double>(Matrix<double>(a)));
    const Array<double> copy = x.numbers, part = Array<double>(Matrix<double>(a)).middle_columns(1, 3);
    const Value<double> out = sigmoid(std::move(x)), of_part = sigmoid(trace.constant(part));
    CHECK(copy.matrix() == a);
    CHECK(part.matrix() == a.middleCols(1, 3));
    CHECK(of_part.numbers.matrix() == out.numbers.matrix().middleCols(1, 3));
  }
  SECTION("a part is not the whole, though nothing else is left of it") {
    Value<double> part = trace.constant(Array<double>(Matrix<double>(a)).middle_rows(1, 2));
    const Value<double> out = times(std::move(part), 2.0);
    CHECK(out.numbers.matrix() == 2.0 * a.middleRows(1, 2));
  }
  SECTION("a view is of somebody's memory, kept alive by whatever it is") {
    Matrix<double> memory = a;
    const auto alive = std::make_shared<int>(1);
    static_cast<void>(sigmoid(trace.constant(Array<double>::view(memory))));
    static_cast<void>(sigmoid(trace.constant(Array<double>::view(memory, alive))));
    CHECK(memory == a);
  }
}

TEST_CASE("operations: a NaN is in the value, the slope and the scale of every function", "[trace]") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinite = std::numeric_limits<double>::infinity();
  Matrix<double> x = Matrix<double>::Constant(1, 9, 0.5);
  for (const Index place : {Index(0), Index(8)}) x(0, place) = nan;  // in a register, and behind the last one
  for (const Function function :
       {Function::sigmoid, Function::silu, Function::gelu_tanh, Function::gelu_erf, Function::relu, Function::relu_squared, Function::tanh,
        Function::softplus, Function::log_sigmoid, Function::exp, Function::elu_plus_one}) {
    INFO(function_name(function));
    std::vector<Matrix<double>> all{function_values<double>(function, x), function_slopes<double>(function, x)};
    if (homogeneous(function)) all.push_back(function_scales<double>(function, x));
    for (const Matrix<double>& made : all)
      for (Index i = 0; i < x.cols(); ++i) CHECK(std::isnan(made(0, i)) == std::isnan(x(0, i)));
    // f(x) / x of an infinite x is no number.
    if (homogeneous(function))
      for (const double far : {infinite, -infinite})
        CHECK(std::isnan(function_scales<double>(function, Matrix<double>(Matrix<double>::Constant(1, 1, far)))(0, 0)));
  }
}
