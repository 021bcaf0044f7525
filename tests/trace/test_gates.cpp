// Operations that make gates, decays, normalizers and weights, against plain double loops.
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <support/errors.hpp>

#include <implicit_attention/trace/bounded_forget_gate.hpp>
#include <implicit_attention/trace/clamp.hpp>
#include <implicit_attention/trace/diagonal_recurrence.hpp>
#include <implicit_attention/trace/experts.hpp>
#include <implicit_attention/trace/exponential_gates.hpp>
#include <implicit_attention/trace/operations.hpp>
#include <implicit_attention/trace/recurrences.hpp>
#include <implicit_attention/trace/row_normalizers.hpp>

#include "operation_checks.hpp"

namespace gate_cases {

using namespace operation_checks;
using test_support::error_of;
using test_support::what_of;

constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
Numbers drawn(std::uint64_t seed, Index rows, Index columns) { return Draw(seed).normals<double>(rows, columns); }
Array<double> constant(const Numbers& numbers) { return Numbers(numbers); }
double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

TEST_CASE("numbers kept within bounds let gradients through where they are within", "[trace]") {
  Numbers x(1, 6);
  x << -3, -0.5, 0.2, 0.9, 1.5, 0.4;
  check_operation({"clamp",
                   [](const Values& v) { return clamp(v[0], -1.0, 1.0); },
                   {x},
                   each_number(x, [](double number) { return std::min(std::max(number, -1.0), 1.0); }),
                   {},
                   "clamp"});
  Numbers edges(1, 3);
  edges << -1, 1, nan;
  const Pass pass({"", [](const Values& v) { return clamp(v[0], -1.0, 1.0); }, {edges}, {}}, true, {true});
  CHECK(std::isnan(pass.out.numbers(0, 2)));  // a NaN is no number that is too large
  const Numbers slopes = pass.walk(WayBack::gradient, Numbers::Ones(1, 3)).gradients[0];
  CHECK(slopes(0, 0) == 1);
  CHECK(slopes(0, 1) == 1);
}

TEST_CASE("a forget gate with a lower bound, and what it writes", "[trace]") {
  const Numbers z = drawn(1, 5, 4) * 2;
  Numbers bound(1, 4);
  bound << 0, 0.3, 0.95, 1 - 1e-9;
  for (const bool bounded : {false, true}) {
    Numbers expected(5, 8);
    for (Index t = 0; t < 5; ++t)
      for (Index c = 0; c < 4; ++c) {
        const double b = bounded ? bound(0, c) : 0;
        expected(t, c) = (1 - b) * sigmoid_of(-z(t, c));
        expected(t, 4 + c) = std::log1p(-expected(t, c));
      }
    check_operation({bounded ? "bounded" : "from 0",
                     [&](const Values& v) {
                       const ForgetGate<double> made = bounded_forget_gate(v[0], bounded ? constant(bound) : Array<double>());
                       return join<double>({made.write, made.log_decay});
                     },
                     {z},
                     expected,
                     {},
                     "forget gate"});
  }
  // Without a bound neither the decay nor its slope underflows; at a bound of 1 nothing is forgotten.
  Numbers far(1, 3);
  far << -800, 800, 0;
  Trace<double> trace(true);
  const Value<double> in = trace.input(constant(far));
  const ForgetGate<double> unbounded = bounded_forget_gate(in, Array<double>());
  CHECK(unbounded.log_decay.numbers(0, 0) == Approx(-800));
  CHECK(unbounded.log_decay.numbers(0, 1) == 0);
  CHECK(unbounded.write.numbers(0, 0) == 1);
  const Numbers one = Numbers::Ones(1, 3);
  CHECK(trace.walk_back(WayBack::gradient, {{unbounded.log_decay, one}}, {in}).gradients[0](0, 0) == Approx(1));
  CHECK(trace.walk_back(WayBack::gradient, {{unbounded.write, one}}, {in}).gradients[0](0, 2) == Approx(-0.25));
  const ForgetGate<double> kept = bounded_forget_gate(in, constant(one));
  CHECK(kept.write.numbers.matrix().isZero(0));
  CHECK(kept.log_decay.numbers.matrix().isZero(0));
  for (const double wrong : {-0.1, 1.1, nan}) {
    Numbers bounds = Numbers::Zero(1, 3);
    bounds(0, 1) = wrong;
    const auto [kind, text] = error_of([&] { (void)bounded_forget_gate(in, constant(bounds)); });
    CHECK(kind == ErrorKind::value);
    CHECK_THAT(text, contains_text("lower_bound of channel 1 is"));
  }
  CHECK_THAT(what_of([&] { (void)bounded_forget_gate(in, constant(Numbers::Zero(1, 2))); }), contains_text("forget gate: lower_bound is"));
}

TEST_CASE("exponential gates are kept in bounds by their running maximum", "[trace]") {
  const Index tokens = 7, heads = 3;
  const Numbers input = drawn(2, tokens, heads) * 2, forget = Draw(3).uniforms<double>(tokens, heads, -2, -0.1),
                before = drawn(4, 1, heads);
  for (const bool carried : {false, true}) {
    Numbers expected(tokens, 3 * heads);
    for (Index h = 0; h < heads; ++h) {
      double maximum = carried ? before(0, h) : -infinity;
      for (Index t = 0; t < tokens; ++t) {
        const double next = std::max(maximum + forget(t, h), input(t, h));
        expected(t, h) = next;
        expected(t, heads + h) = t == 0 && !carried ? 0 : maximum + forget(t, h) - next;
        expected(t, 2 * heads + h) = std::exp(input(t, h) - next);
        maximum = next;
      }
    }
    check_operation({carried ? "carried in" : "from nothing",
                     [&](const Values& v) {
                       const ExponentialGates<double> made = exponential_gates(v[0], v[1], carried ? constant(before) : Array<double>());
                       return join<double>({made.maximum, made.log_decay, made.write});
                     },
                     {input, forget},
                     expected,
                     {},
                     "exponential gates"});
  }
  // What a state of exponentials becomes: sums of exp(input_j + decays since) are exp(maximum) times those with the gates.
  Trace<double> trace;
  const Numbers large = input * 1000;  // whose exponentials are no numbers of double
  const ExponentialGates<double> made = exponential_gates(trace.input(constant(large)), trace.input(constant(forget)));
  CHECK(made.log_decay.numbers.matrix().maxCoeff() <= 0);
  CHECK(made.write.numbers.matrix().maxCoeff() <= 1);
  CHECK(made.maximum.numbers.matrix().allFinite());
  CHECK_THAT(what_of([&] { (void)exponential_gates(trace.input(constant(input)), trace.input(constant(before))); }),
             contains_text("exponential_gates: the forget gates is (1, 3), expected (7, 3)"));
}

TEST_CASE("a gated decay and the factor that keeps its state in bounds", "[trace]") {
  const Numbers input = drawn(5, 6, 3);
  RowVector<double> rate(3);
  rate << -4, -0.5, -8;
  for (const std::vector<Index>& starts : {std::vector<Index>{}, {0}, {0, 4}}) {
    Numbers expected(6, 6);
    for (Index t = 0; t < 6; ++t)
      for (Index c = 0; c < 3; ++c) {
        const double log_a = rate[c] * sigmoid_of(input(t, c));
        expected(t, c) = log_a;
        const bool start = std::find(starts.begin(), starts.end(), t) != starts.end();
        expected(t, 3 + c) = start ? 1 : std::sqrt(1 - std::exp(2 * log_a));
      }
    const Operation operation{"",
                              [&](const Values& v) {
                                const GatedDecay<double> made = gated_decay(v[0], rate, starts);
                                CHECK(difference(made.gate.matrix(), each_number(*v[0], sigmoid_of)) < 1e-15);
                                return join<double>({made.log_decay, made.normalizer});
                              },
                              {input},
                              expected,
                              {},
                              "gated decay"};
    if (starts.empty()) check_operation(operation);
    const Pass pass(operation, true, {true});
    CHECK(difference(pass.out.numbers.matrix(), expected) < 1e-14);
    // Documents begin with a decay of 0 whatever their first gate says.
    const Numbers back = pass.walk(WayBack::gradient, drawn(6, 6, 6)).gradients[0];
    for (const Index start : starts) CHECK(back.row(start).isZero(0));
    CHECK(back.allFinite());
  }
  // Where nothing decays, the factor is 0 and both slopes are 0, not NaN.
  const Numbers shut = Numbers::Constant(1, 3, -2000);
  const Pass pass({"",
                   [&](const Values& v) {
                     const GatedDecay<double> made = gated_decay(v[0], rate, {});
                     return join<double>({made.log_decay, made.normalizer});
                   },
                   {shut},
                   {}},
                  true, {true});
  CHECK(pass.out.numbers.matrix().isZero(1e-150));
  CHECK(pass.walk(WayBack::gradient, Numbers::Ones(1, 6)).gradients[0].isZero(1e-150));
}

TEST_CASE("what rows are divided by", "[trace]") {
  const Numbers x = off_zero(drawn(7, 5, 4)), floor = Draw(8).uniforms<double>(5, 4, 0.3, 0.8);
  check_operation({"reciprocal",
                   [](const Values& v) { return reciprocal(v[0]); },
                   {x},
                   each_number(x, [](double n) { return 1 / n; }),
                   {},
                   "reciprocal"});
  const Numbers positive = x.cwiseAbs();
  check_operation({"reciprocal of more",
                   [](const Values& v) { return reciprocal(v[0], 0.5); },
                   {positive},
                   each_number(positive, [](double n) { return 1 / (n + 0.5); }),
                   {},
                   "reciprocal"});
  check_operation({"magnitude_at_least",
                   [](const Values& v) { return magnitude_at_least(v[0], v[1]); },
                   {x, floor},
                   each_pair(x, floor, [](double n, double least) { return std::max(std::abs(n), least); }),
                   {},
                   "magnitude_at_least"});
  Trace<double> trace;
  Numbers odd(1, 3), least(1, 3);
  odd << nan, 1, -infinity;
  least << 1, nan, 1;
  const Numbers out = *magnitude_at_least(trace.input(constant(odd)), trace.input(constant(least)));
  CHECK(std::isnan(out(0, 0)));
  CHECK(std::isnan(out(0, 1)));
  CHECK(out(0, 2) == infinity);
  CHECK_THAT(what_of([&] { (void)magnitude_at_least(trace.input(constant(x)), trace.input(constant(least))); }),
             contains_text("magnitude_at_least: the floor is (1, 3), expected (5, 4)"));

  const Index tokens = 5, heads = 2, state = 3;
  const Numbers query = drawn(9, tokens, heads * state), key = drawn(10, tokens, heads * state);
  Numbers log_decay(1, heads);
  log_decay << -0.3, 0;
  Numbers absolute = Numbers::Zero(tokens, heads), sums = absolute;
  for (Index h = 0; h < heads; ++h)
    for (Index i = 0; i < tokens; ++i)
      for (Index j = 0; j <= i; ++j) {
        const double entry = query.row(i).segment(h * state, state).dot(key.row(j).segment(h * state, state)) *
                             std::exp(static_cast<double>(i - j) * log_decay(0, h));
        absolute(i, h) += std::abs(entry);
        sums(i, h) += entry;
      }
  check_operation({"absolute_row_sums",
                   [&](const Values& v) { return absolute_row_sums(v[0], v[1], constant(log_decay)); },
                   {query, key},
                   absolute,
                   {},
                   "absolute_row_sums"});
  const auto summed = [&](const Values& v) {
    HeadRecurrence<double> recurrence;
    recurrence.tokens = tokens;
    recurrence.heads = recurrence.groups = heads;
    recurrence.state = state;
    recurrence.channels = 7 * heads;  // of the values, which sums have none of
    recurrence.query = v[0].numbers;
    recurrence.key = v[1].numbers;
    recurrence.log_decay = constant(log_decay);
    HeadInputs<double> inputs;
    inputs.query = v[0];
    inputs.key = v[1];
    return row_sums(recurrence, inputs);
  };
  const Pass pass({"", summed, {query, key}, {}}, true, {true, true});
  CHECK(difference(pass.out.numbers.matrix(), sums) < 1e-13);
  CHECK_THAT(what_of([&] { (void)absolute_row_sums(trace.input(constant(query)), trace.input(constant(x)), constant(log_decay)); }),
             contains_text("absolute_row_sums: the keys is (5, 4), expected (5, 6)"));
}

TEST_CASE("weights of rows: the softmax, and shares of a sum", "[trace]") {
  const Numbers x = drawn(11, 4, 5), positive = x.cwiseAbs();
  Numbers softmax = x, shares = positive;
  for (Index t = 0; t < 4; ++t) {
    double sum = 0, plain = 0.25;
    for (Index c = 0; c < 5; ++c) {
      sum += std::exp(x(t, c));
      plain += positive(t, c);
    }
    for (Index c = 0; c < 5; ++c) {
      softmax(t, c) = std::exp(x(t, c)) / sum;
      shares(t, c) = positive(t, c) / plain;
    }
  }
  check_operation({"softmax_rows", [](const Values& v) { return softmax_rows(v[0]); }, {x}, softmax, {}, "softmax_rows"});
  check_operation(
      {"divide_by_row_sum", [](const Values& v) { return divide_by_row_sum(v[0], 0.25); }, {positive}, shares, {}, "divide_by_row_sum"});
  Trace<double> trace;
  const Numbers large = x * 1e4;  // whose exponentials are no numbers of double
  CHECK(softmax_rows(trace.input(constant(large))).numbers.matrix().allFinite());
}

TEST_CASE("experts are chosen by their scores, among the groups that score best", "[trace]") {
  Numbers scores(3, 6);
  scores << 1, 5, 3, 5, -2, 4,  // the first of equal ones
      -1, -2, -3, -4, -5, -6,   //
      0, 9, 1, 1, 8, 7;
  const auto chosen = [&](ExpertChoice choice) { return choose_experts<double>(scores, choice); };
  CHECK(chosen({1, 1, 1}) == std::vector<Index>{1, 0, 1});
  CHECK(chosen({3, 1, 1}) == std::vector<Index>{1, 3, 5, 0, 1, 2, 1, 4, 5});
  // Groups of two: (6, 8, 2), (-3, -7, -11), (9, 2, 15). Experts of a group that stays are taken though others' score more.
  CHECK(chosen({2, 3, 1}) == std::vector<Index>{3, 2, 0, 1, 4, 5});
  CHECK(chosen({3, 3, 2}) == std::vector<Index>{1, 3, 2, 0, 1, 2, 1, 4, 5});
  // Groups of one score as their expert does.
  CHECK(chosen({2, 6, 2}) == std::vector<Index>{1, 3, 0, 1, 1, 4});
  const auto refused = [](ExpertChoice choice) {
    std::string text;
    detail::check_choice(choice, 6, [&](detail::ChoiceNumber number, Index value, const std::string& expected) {
      text = detail::message(static_cast<int>(number), ": ", value, ", expected ", expected);
    });
    return text;
  };
  CHECK(refused({4, 3, 2}).empty());
  CHECK(refused({1, 4, 1}) == "0: 4, expected a divisor of 6");
  CHECK(refused({1, 0, 1}) == "0: 0, expected a divisor of 6");
  CHECK(refused({1, 3, 4}) == "1: 4, expected 1 to 3");
  CHECK(refused({1, 3, 0}) == "1: 0, expected 1 to 3");
  CHECK(refused({5, 3, 2}) == "2: 5, expected 1 to 4");
  CHECK(refused({0, 3, 2}) == "2: 0, expected 1 to 4");
}

TEST_CASE("what experts give is gathered and summed with their weights", "[trace]") {
  const Numbers x = drawn(12, 3, 4);
  const std::vector<Index> chosen = {3, 0, 1, 2, 0, 3};  // two a token
  Numbers gathered(3, 2);
  for (Index t = 0; t < 3; ++t)
    for (Index k = 0; k < 2; ++k) gathered(t, k) = x(t, chosen[static_cast<std::size_t>(2 * t + k)]);
  check_operation({"gather_chosen", [&](const Values& v) { return gather_chosen(v[0], chosen); }, {x}, gathered});
  const std::vector<Index> rows = {2, 0, 2, 2};
  Numbers of_rows(4, 4);
  for (Index k = 0; k < 4; ++k) of_rows.row(k) = x.row(rows[static_cast<std::size_t>(k)]);
  check_operation({"gather_rows", [&](const Values& v) { return gather_rows(v[0], rows); }, {x}, of_rows});

  const Numbers weights = drawn(13, 3, 2), of_first = drawn(14, 2, 4), of_second = drawn(15, 3, 4);
  const std::vector<Index> first = {0, 2}, second = {0, 1, 2}, first_places = {1, 0}, second_places = {0, 0, 1};
  Numbers expected = Numbers::Zero(3, 4);
  for (std::size_t k = 0; k < 2; ++k) expected.row(first[k]) += weights(first[k], first_places[k]) * of_first.row(static_cast<Index>(k));
  for (std::size_t k = 0; k < 3; ++k)
    expected.row(second[k]) += weights(second[k], second_places[k]) * of_second.row(static_cast<Index>(k));
  check_operation({"combine_experts",
                   [&](const Values& v) {
                     return combine_experts(v[0], {{v[1], first, first_places}, {v[2], second, second_places}});
                   },
                   {weights, of_first, of_second},
                   expected,
                   {0}});
}

}  // namespace gate_cases
