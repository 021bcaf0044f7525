// The record of a pass: what it keeps, where a walk begins, leaves it and ends.
#include <memory>
#include <string>
#include <vector>

#include <support/errors.hpp>

#include <implicit_attention/trace/operations.hpp>
#include <implicit_attention/trace/run_context.hpp>
#include <implicit_attention/trace/walk_back.hpp>

#include "operation_checks.hpp"

namespace trace_cases {

using namespace operation_checks;
using test_support::error_of;
using test_support::what_of;

Numbers drawn(std::uint64_t seed) { return Draw(seed).normals<double>(4, 3); }
Array<double> array(const Numbers& numbers) { return Numbers(numbers); }

TEST_CASE("a pass that was not recorded cannot be walked back", "[trace]") {
  Trace<double> trace;
  const Value<double> x = trace.input(array(drawn(1)));
  CHECK(!x.recorded());
  const auto [kind, text] = error_of([&] { (void)trace.walk_back(WayBack::gradient, {{x, drawn(2)}}, {x}); });
  CHECK(kind == ErrorKind::value);
  CHECK_THAT(text, contains_text("this pass was not recorded, so it cannot be walked back"));
}

TEST_CASE("a way back that nobody knows is named", "[trace]") {
  Back<double> back(WayBack::gradient, serial_executor(), 1);
  Numbers gradient;
  const detail::LinearBack<double> way{};
  CHECK_THAT(what_of([&] { detail::walk_one_of<detail::LinearBack<double>>("another", &way, back, gradient); }),
             contains_text("Trace: no way back is called another"));
}

TEST_CASE("a walk keeps what is asked for: inputs, values on the way, constants and what was never reached", "[trace]") {
  const Numbers a = drawn(1), g = drawn(2), h = drawn(3);
  Trace<double> trace(true);
  const Value<double> x = trace.input(array(a)), unused = trace.input(array(drawn(4))), constant = trace.constant(array(a));
  const Value<double> twice = times(x, 2.0), out = times(twice, 5.0);
  const WalkResult<double> result = trace.walk_back(WayBack::gradient, {{out, g}}, {out, twice, x, unused, constant});
  CHECK(result.gradients[0] == g);
  CHECK(result.gradients[1] == 5 * g);
  CHECK(difference(result.gradients[2], 10 * g) < 1e-14);
  CHECK(result.gradients[3] == Numbers::Zero(4, 3));
  CHECK(result.gradients[4] == Numbers::Zero(4, 3));
  // Several beginnings, at one value and at others, add up; one at a constant is none.
  const std::vector<Seed<double>> seeds = {{out, g}, {out, h}, {twice, h}, {constant, h}};
  const WalkResult<double> sum = trace.walk_back(WayBack::gradient, seeds, {x, twice});
  CHECK(difference(sum.gradients[0], 10 * g + 12 * h) < 1e-13);
  CHECK(difference(sum.gradients[1], 5 * g + 6 * h) < 1e-13);
}

TEST_CASE("a walk leaves the record at its detours", "[trace]") {
  const Numbers g = drawn(2);
  Trace<double> trace(true);
  const Value<double> x = trace.input(array(drawn(1))), y = trace.input(array(drawn(3)));
  const Value<double> inner = times(x, 2.0), out = add(times(inner, 5.0), y);
  const auto tripled = [](const Numbers& gradient) { return Numbers(3 * gradient); };
  const auto negated = [](const Numbers& gradient) { return Numbers(-gradient); };
  const std::vector<Value<double>> wanted = {x, y, inner};
  const WalkResult<double> one = trace.walk_back(WayBack::gradient, {{out, g}}, wanted, {{inner, y, tripled}});
  CHECK(one.gradients[0].isZero(0));  // behind the detour nothing is left
  CHECK(difference(one.gradients[1], g + 15 * g) < 1e-13);
  CHECK(one.gradients[2] == 5 * g);
  const WalkResult<double> two = trace.walk_back(WayBack::gradient, {{out, g}}, wanted, {{inner, y, tripled}, {inner, x, negated}});
  CHECK(difference(two.gradients[0], -5 * g) < 1e-13);
  CHECK(difference(two.gradients[1], 16 * g) < 1e-13);
  // Nothing arrives there: nothing is handed on.
  bool called = false;
  const auto calls = [&](const Numbers& gradient) {
    called = true;
    return gradient;
  };
  const WalkResult<double> none = trace.walk_back(WayBack::gradient, {{y, g}}, wanted, {{inner, y, calls}});
  CHECK(!called);
  CHECK(none.gradients[1] == g);
}

TEST_CASE("an operation of several results is walked where any of them is reached", "[trace]") {
  const Numbers a = drawn(1), g = drawn(2);
  for (int reached = 0; reached < 4; ++reached) {
    Trace<double> trace(true);
    const Value<double> x = trace.input(array(a));
    int walks = 0;
    const std::vector<Value<double>> both = trace.record_all({array(a), array(2 * a)}, [&walks, x](Back<double>& back, Numbers* gradients) {
      ++walks;
      for (int part = 0; part < 2; ++part)
        if (gradients[part].size() != 0) back.add(x, (part + 1) * gradients[part]);
    });
    std::vector<Seed<double>> seeds;
    for (int part = 0; part < 2; ++part)
      if (reached & (1 << part)) seeds.push_back({both[static_cast<std::size_t>(part)], g});
    const Numbers found = trace.walk_back(WayBack::gradient, seeds, {x}).gradients[0];
    CHECK(walks == (reached == 0 ? 0 : 1));
    CHECK(difference(found, (reached & 1 ? 1 : 0) * g + (reached & 2 ? 2 : 0) * g) < 1e-14);
  }
}

TEST_CASE("what relevance has no rule for is named once, in the order in which it was reached", "[trace]") {
  Trace<double> trace(true);
  const Value<double> x = trace.input(array(drawn(1)));
  const Value<double> out = softplus(sigmoid(add(sigmoid(x), sigmoid(x))));
  const WalkResult<double> walked = trace.walk_back(WayBack::relevance, {{out, drawn(2)}}, {x});
  CHECK(walked.untreated == std::vector<std::string>{"softplus"});
  const Value<double> first = sigmoid(x), second = sigmoid(x), third = softplus(x);
  const WalkResult<double> all = trace.walk_back(WayBack::relevance, {{add(first, add(second, third)), drawn(2)}}, {x});
  CHECK(all.untreated == std::vector<std::string>{"softplus", "sigmoid"});
}

TEST_CASE("the numbers that a recorded pass holds are counted once, and no longer than they are held", "[trace]") {
  constexpr std::size_t bytes = 12 * sizeof(double);
  const Array<double> input = array(drawn(1));
  {
    Trace<double> plain;
    (void)plain.input(input);
    CHECK(plain.held_bytes() == 0);  // nothing is recorded
  }
  Trace<double> trace(true);
  const Value<double> x = trace.input(input);
  CHECK(trace.held_bytes() == bytes);
  const Value<double> part = columns(x, 1, 2), again = trace.constant(input);
  CHECK(trace.held_bytes() == bytes);  // of the same memory
  CHECK(trace.held_bytes(input.owner()) == 0);
  {
    const Value<double> sum = add(x, x);  // whose way back keeps no numbers
    CHECK(trace.held_bytes() == 2 * bytes);
    CHECK(trace.held_bytes(input.owner()) == bytes);
  }
  CHECK(trace.held_bytes() == bytes);
}

TEST_CASE("an operation begins anew where it does itself and where the pass does", "[trace]") {
  const Trace<double> whole, packed(false, serial_executor(), {0, 4, 9});
  CHECK(whole.starts_with({}).empty());
  CHECK(whole.starts_with({0, 3}) == std::vector<Index>{0, 3});
  CHECK(packed.starts_with({}) == std::vector<Index>{0, 4, 9});
  CHECK(packed.starts_with({3, 4, 12}) == std::vector<Index>{0, 3, 4, 9, 12});
}

TEST_CASE("parts find their positions and what others share", "[trace]") {
  RunContext<double> context;
  CHECK(context.positions_of(3) == std::vector<Index>{0, 1, 2});
  CHECK(context.positions_of(2, 5) == std::vector<Index>{5, 6});
  context.positions = {7, 7, 9};
  CHECK(context.positions_of(3, 5) == std::vector<Index>{7, 7, 9});
  Trace<double> trace;
  CHECK(context.find("values") == nullptr);
  context.share("values", trace.constant(array(drawn(1))));
  context.share("others", trace.constant(array(drawn(2))));
  context.share("values", trace.constant(array(drawn(3))));
  CHECK(context.shared.size() == 2);
  REQUIRE(context.find("values") != nullptr);
  CHECK(context.find("values")->numbers.matrix() == drawn(3));
}

TEST_CASE("states go from piece to piece in the order of their parts, and to no other model", "[trace]") {
  CarriedStates states;
  CHECK(!states.begun());
  const auto run = [&](int first, const std::string& second) {
    states.begin_piece();
    const int* const number = states.before<int>();
    states.leave<int>(first);
    const std::string* const text = states.before<std::string>();
    states.leave<std::string>(second);
    states.end_piece();
    return std::pair(number == nullptr ? -1 : *number, text == nullptr ? std::string("none") : *text);
  };
  CHECK(run(1, "a") == std::pair(-1, std::string("none")));
  CHECK(states.begun());
  // The state that is left takes the place of the one before it: that is read first.
  states.begin_piece();
  REQUIRE(states.before<int>() != nullptr);
  CHECK(*states.before<int>() == 1);
  const std::string other = "these states belong to another model";
  CHECK_THAT(what_of([&] { (void)states.before<double>(); }), contains_text(other));  // of another type
  states.leave<int>(2);
  CHECK_THAT(what_of([&] { states.end_piece(); }), contains_text(other));  // a part did not run
  CHECK(*states.before<std::string>() == "a");
  states.leave<std::string>("b");
  CHECK_THAT(what_of([&] { (void)states.before<std::string>(); }), contains_text(other));  // one part more
  states.end_piece();
  states.begin_piece();
  CHECK(*states.before<int>() == 2);
  CHECK(states.refusals().empty());
  states.refuse("an attention");
  CHECK(states.refusals() == std::vector<std::string>{"an attention"});
}

}  // namespace trace_cases
