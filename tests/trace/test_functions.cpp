// Functions, sums and products number by number, as operations.
#include <cmath>
#include <utility>
#include <vector>

#include <support/errors.hpp>

#include <implicit_attention/trace/elementwise.hpp>

#include "operation_checks.hpp"

namespace function_cases {

using namespace operation_checks;

double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

struct Case {
  Function function;
  double (*value)(double x);
};

const std::vector<Case> functions = {
    {Function::identity, [](double x) { return x; }},
    {Function::sigmoid, sigmoid_of},
    {Function::silu, [](double x) { return x * sigmoid_of(x); }},
    {Function::gelu_tanh,
     [](double x) { return x / 2 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x))); }},
    {Function::gelu_erf, [](double x) { return x / 2 * (1 + std::erf(x / std::sqrt(2.0))); }},
    {Function::relu, [](double x) { return x > 0 ? x : 0; }},
    {Function::relu_squared, [](double x) { return x > 0 ? x * x : 0; }},
    {Function::tanh, [](double x) { return std::tanh(x); }},
    {Function::softplus, [](double x) { return std::log1p(std::exp(x)); }},
    {Function::log_sigmoid, [](double x) { return -std::log1p(std::exp(-x)); }},
    {Function::exp, [](double x) { return std::exp(x); }},
    {Function::elu_plus_one, [](double x) { return x < 0 ? std::exp(x) : x + 1; }},
};

Numbers drawn(std::uint64_t seed) { return Draw(seed).normals<double>(5, 7); }

TEST_CASE("every function has its values, its slopes and its rule for relevance", "[trace]") {
  const Numbers x = off_zero(drawn(1));
  for (const auto& [function, value] : functions) {
    const std::string name(function_name(function));
    check_operation({name,
                     [f = function](const Values& v) { return apply_function(f, v[0]); },
                     {x},
                     each_number(x, value),
                     {},
                     homogeneous(function) ? "" : name});
  }
  check_operation({"softplus, from its values",
                   [](const Values& v) { return softplus(v[0]); },
                   {x},
                   each_number(x, functions[8].value),
                   {},
                   "softplus"});
  check_operation({"sigmoid", [](const Values& v) { return sigmoid(v[0]); }, {x}, each_number(x, sigmoid_of), {}, "sigmoid"});
  check_operation({"silu", [](const Values& v) { return silu(v[0]); }, {x}, each_number(x, functions[2].value)});
}

TEST_CASE("a homogeneous function's scale at 0 is the limit of f(x) / x", "[trace]") {
  const Numbers zero = Numbers::Zero(1, 1), near = Numbers::Constant(1, 1, 1e-9);
  for (const auto& [function, value] : functions) {
    if (!homogeneous(function) || function == Function::relu) continue;  // relu has two limits
    INFO(function_name(function));
    CHECK(function_scales<double>(function, zero)(0, 0) == Approx(value(1e-9) / 1e-9).margin(1e-8));
    CHECK(function_scales<double>(function, near)(0, 0) == Approx(value(1e-9) / 1e-9).margin(1e-8));
  }
  CHECK(function_name(static_cast<Function>(99)) == "?");
}

TEST_CASE("sums, differences and constant factors", "[trace]") {
  const Numbers a = drawn(2), b = drawn(3), row = Draw(4).normals<double>(1, 7);
  const Array<double> constant = Numbers(row);
  check_operation({"a + b", [](const Values& v) { return add(v[0], v[1]); }, {a, b}, a + b});
  check_operation({"a + a", [](const Values& v) { return add(v[0], v[0]); }, {a}, 2 * a});
  check_operation({"a - b", [](const Values& v) { return subtract(v[0], v[1]); }, {a, b}, a - b});
  check_operation({"3 a", [](const Values& v) { return times(v[0], 3.0); }, {a}, 3 * a});
  check_operation({"1 - a", [](const Values& v) { return one_minus(v[0]); }, {a}, each_number(a, [](double x) { return 1 - x; })});
  check_operation({"a times a row", [&](const Values& v) { return times_row(v[0], constant); }, {a}, a.cwiseProduct(row.replicate(5, 1))});
  check_operation({"a plus a row", [&](const Values& v) { return plus_row(v[0], constant); }, {a}, a + row.replicate(5, 1)});
  Trace<double> trace(true);
  const Value<double> x = trace.input(Array<double>(Numbers(a)));
  CHECK(times(x, 1.0).slot == x.slot);  // nothing is recorded for it
  const Array<double> narrow = Numbers(row.leftCols(6));
  CHECK_THAT(test_support::what_of([&] { (void)times_row(x, narrow); }), contains_text("times_row: row is"));
  CHECK_THAT(test_support::what_of([&] { (void)plus_row(x, narrow); }), contains_text("plus_row: row is"));
  CHECK_THAT(test_support::what_of([&] { (void)product(x, trace.constant(narrow)); }),
             contains_text("product: the second factor is (1, 6), expected (5, 7)"));
}

TEST_CASE("products share relevance between their factors, unless one is a scale", "[trace]") {
  const Numbers a = drawn(5), b = drawn(6), both = a.cwiseProduct(b);
  check_operation({"a b", [](const Values& v) { return product(v[0], v[1]); }, {a, b}, both});
  check_operation({"a a", [](const Values& v) { return product(v[0], v[0]); }, {a}, a.cwiseProduct(a)});
  check_operation({"a gates b", [](const Values& v) { return gate(v[0], v[1]); }, {a, b}, both});
  check_operation({"a scales b", [](const Values& v) { return scale(v[0], v[1]); }, {a, b}, both, {0}});
  for (const auto& [function, value] : functions) {
    const Numbers z = off_zero(a);
    std::vector<std::size_t> held;
    if (!homogeneous(function)) held.push_back(0);
    check_operation({"gated by " + std::string(function_name(function)),
                     [f = function](const Values& v) { return gated_product(f, v[0], v[1]); },
                     {z, b},
                     each_number(z, value).cwiseProduct(b),
                     held});
  }
}

TEST_CASE("the operator of a token mixer holds its gate, and no other product", "[trace]") {
  const Numbers a = drawn(7), b = drawn(8), g = drawn(9);
  const auto walked = [&](const auto& run) {
    return Pass({"", [&](const Values& v) { return run(v[0], v[1]); }, {a, b}, {}}, true, {true, true})
        .walk(WayBack::attention, g)
        .gradients;
  };
  const std::vector<Numbers> gated = walked([](const auto& x, const auto& y) { return gate(x, y); });
  CHECK(gated[0].isZero(0));
  CHECK(gated[1] == g.cwiseProduct(a));
  const std::vector<Numbers> halved = walked([](const auto& x, const auto& y) { return product(x, y); });
  CHECK(halved[0] == (0.5 * g).cwiseProduct(b));
  CHECK(halved[1] == (0.5 * g).cwiseProduct(a));
  const std::vector<Numbers> scaled = walked([](const auto& x, const auto& y) { return scale(x, y); });
  CHECK(scaled[0].isZero(0));
  CHECK(scaled[1] == g.cwiseProduct(a));
}

}  // namespace function_cases
