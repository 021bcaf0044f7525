// An operation of a trace: its numbers, both of its ways back, and that neither depends on what else is recorded or on workers.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/finite_differences.hpp>
#include <support/random.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/trace/trace.hpp>
#include <implicit_attention/trace/walk_back.hpp>

namespace operation_checks {

using namespace implicit_attention;
using test_support::Draw;
using Numbers = Matrix<double>;
using Values = std::vector<Value<double>>;

struct Operation {
  std::string what;
  std::function<Value<double>(const Values& inputs)> run;
  std::vector<Numbers> inputs;
  Numbers expected;
  std::vector<std::size_t> held = {};  ///< inputs that relevance holds
  std::string untreated = {};          ///< what relevance names, where it has no rule
};

inline double difference(const Numbers& found, const Numbers& expected) {
  REQUIRE(found.rows() == expected.rows());
  REQUIRE(found.cols() == expected.cols());
  return (found - expected).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
}

/// One pass through an operation; `recorded` says which inputs enter it, the others being constants.
struct Pass {
  Pass(const Operation& operation, bool recording, const std::vector<bool>& recorded, const Executor& executor = serial_executor())
      : trace(recording, executor) {
    for (std::size_t k = 0; k < operation.inputs.size(); ++k) {
      const Array<double> numbers = Numbers(operation.inputs[k]);
      inputs.push_back(recorded[k] ? trace.input(numbers) : trace.constant(numbers));
    }
    out = operation.run(inputs);
  }
  [[nodiscard]] WalkResult<double> walk(WayBack way, const Numbers& g) const { return trace.walk_back(way, {{out, g}}, inputs); }

  Trace<double> trace;
  Values inputs;
  Value<double> out;
};

inline void check_operation(const Operation& operation) {
  INFO(operation.what);
  const std::size_t count = operation.inputs.size();
  const std::vector<bool> all(count, true), none(count, false);
  // A handful of operations of a processor, and their largest number.
  const double tolerance = 1e-13 * std::max(1.0, operation.expected.cwiseAbs().maxCoeff());
  const Pass plain(operation, false, all), of_constants(operation, true, none), pass(operation, true, all);
  const Numbers numbers = *plain.out;
  CHECK(difference(numbers, operation.expected) <= tolerance);
  CHECK(!plain.out.recorded());
  CHECK(!of_constants.out.recorded());
  CHECK(*of_constants.out == numbers);
  REQUIRE(pass.out.recorded());
  CHECK(*pass.out == numbers);

  Draw draw(17);
  const Numbers g = draw.normals<double>(numbers.rows(), numbers.cols());
  const WalkResult<double> gradient = pass.walk(WayBack::gradient, g);
  CHECK(gradient.untreated.empty());
  CHECK(gradient.bias_share == 0);
  for (std::size_t k = 0; k < count; ++k) {
    Operation changed = operation;
    const auto at = [&](const Numbers& point) {
      changed.inputs[k] = point;
      return test_support::dot(g, *Pass(changed, false, none).out);
    };
    test_support::check_gradient("input " + std::to_string(k), operation.inputs[k], gradient.gradients[k], at, draw);
    std::vector<bool> alone = none;
    alone[k] = true;
    CHECK(Pass(operation, true, alone).walk(WayBack::gradient, g).gradients[k] == gradient.gradients[k]);
  }
  const Pass shared(operation, true, all, thread_executor(3));
  CHECK(*shared.out == numbers);
  CHECK(shared.walk(WayBack::gradient, g).gradients == gradient.gradients);

  const WalkResult<double> relevance = pass.walk(WayBack::relevance, g);
  if (!operation.untreated.empty()) {
    CHECK(relevance.untreated == std::vector<std::string>{operation.untreated});
    for (const Numbers& one : relevance.gradients) CHECK(one.isZero(0));
    return;
  }
  CHECK(relevance.untreated.empty());
  // What arrives goes on: to the inputs, each by gradient times input, and to constants.
  double passed = relevance.bias_share;
  for (std::size_t k = 0; k < count; ++k) passed += test_support::dot(operation.inputs[k], relevance.gradients[k]);
  const double size = g.cwiseAbs().cwiseProduct(numbers.cwiseAbs()).sum();
  CHECK(std::abs(passed - test_support::dot(g, numbers)) <= 1e-13 * std::max(1.0, size));
  for (const std::size_t k : operation.held) CHECK(relevance.gradients[k].isZero(0));
}

/// Number by number.
template <class Each>
Numbers each_number(const Numbers& x, const Each& each) {
  Numbers out = x;
  for (Index i = 0; i < x.size(); ++i) out.data()[i] = each(x.data()[i]);
  return out;
}
template <class Each>
Numbers each_pair(const Numbers& a, const Numbers& b, const Each& each) {
  Numbers out = a;
  for (Index i = 0; i < a.size(); ++i) out.data()[i] = each(a.data()[i], b.data()[i]);
  return out;
}
/// Numbers whose neighbourhood holds no 0, where a function has a corner.
inline Numbers off_zero(const Numbers& x) {
  return each_number(x, [](double number) { return number < 0 ? number - 0.1 : number + 0.1; });
}

}  // namespace operation_checks
