// LSTM and GRU cells as operations, against the equations token by token.
#include <cmath>
#include <string>
#include <vector>

#include <support/errors.hpp>

#include <implicit_attention/trace/gated_cells.hpp>
#include <implicit_attention/trace/operations.hpp>

#include "operation_checks.hpp"

namespace gated_cell_cases {

using namespace operation_checks;
using test_support::what_of;

constexpr Index tokens = 5, channels = 3;
Numbers drawn(std::uint64_t seed, Index rows, Index columns) { return Draw(seed).normals<double>(rows, columns); }
double sigmoid_of(double x) { return 1 / (1 + std::exp(-x)); }

/// A cell's constants: with everything that is carried in and a bias, or with nothing.
struct Constants {
  Constants(Index gates, bool whole) : weight(drawn(1, gates * channels, channels)) {
    if (!whole) return;
    bias = drawn(2, 1, gates * channels);
    h0 = drawn(3, 1, channels);
    c0 = drawn(4, 1, channels);
  }
  [[nodiscard]] static Array<double> array(const Numbers& numbers) {
    return numbers.size() == 0 ? Array<double>() : Array<double>(Numbers(numbers));
  }
  /// What the output before, h, gives gate row `row`.
  [[nodiscard]] double recurrent(Index row, const std::vector<double>& h) const {
    double sum = bias.size() == 0 ? 0 : bias(0, row);
    for (Index e = 0; e < channels; ++e) sum += weight(row, e) * h[static_cast<std::size_t>(e)];
    return sum;
  }
  [[nodiscard]] static std::vector<double> start(const Numbers& row) {
    return row.size() == 0 ? std::vector<double>(channels, 0) : std::vector<double>(row.data(), row.data() + channels);
  }
  Numbers weight, bias, h0, c0;
};

TEST_CASE("an LSTM's cells, from their gates' sums to their outputs and back", "[trace]") {
  for (const bool whole : {false, true}) {
    const Constants constants(4, whole);
    const Numbers input = drawn(5, tokens, 4 * channels);
    Numbers candidates(tokens, channels), outputs(tokens, channels), cells(tokens, channels);
    std::vector<double> h = Constants::start(constants.h0), c = Constants::start(constants.c0);
    for (Index t = 0; t < tokens; ++t) {
      std::vector<double> next = h;
      for (Index e = 0; e < channels; ++e) {
        const auto sum = [&](Index gate) { return input(t, gate * channels + e) + constants.recurrent(gate * channels + e, h); };
        double& cell = c[static_cast<std::size_t>(e)];
        candidates(t, e) = std::tanh(sum(2));
        cell = sigmoid_of(sum(1)) * cell + sigmoid_of(sum(0)) * candidates(t, e);
        cells(t, e) = cell;
        next[static_cast<std::size_t>(e)] = outputs(t, e) = sigmoid_of(sum(3)) * std::tanh(cell);
      }
      h = next;
    }
    const auto run = [&](const Value<double>& sums) {
      return lstm(sums, Constants::array(constants.weight), Constants::array(constants.bias), Constants::array(constants.h0),
                  Constants::array(constants.c0));
    };
    INFO((whole ? "with a bias and states carried in" : "bare"));
    check_operation({"outputs", [&](const Values& v) { return run(v[0]).y; }, {input}, outputs});
    Trace<double> trace;
    const GatedCellPass<double> pass = run(trace.input(Array<double>(Numbers(input))));
    CHECK(difference(*pass.x, candidates) < 1e-14);
    CHECK(difference(pass.cell.matrix(), cells) < 1e-14);
    // The operator: decays, what is written, and the gate that makes an output of a cell.
    CHECK(difference(pass.gate.matrix().cwiseProduct(cells), outputs) < 1e-13);
    for (Index e = 0; e < channels; ++e) {
      double cell = whole ? constants.c0(0, e) : 0;
      for (Index t = 0; t < tokens; ++t) {
        cell = std::exp(pass.log_decay(t, e)) * cell + pass.write(t, e) * pass.x.numbers(t, e);
        CHECK(std::abs(cell - cells(t, e)) < 1e-13);
      }
    }
    // With the mixer's own operator held, the candidates take what the outputs get, but for what was carried in.
    const Pass held({"", [&](const Values& v) { return run(v[0]).y; }, {input}, {}}, true, {true});
    const Numbers g = drawn(6, tokens, channels);
    const WalkResult<double> walked = held.walk(WayBack::attention, g);
    CHECK(std::abs(walked.bias_share + test_support::dot(walked.gradients[0], input) - test_support::dot(g, outputs)) < 1e-12);
    CHECK(walked.gradients[0].leftCols(2 * channels).isZero(0));
    CHECK(walked.gradients[0].rightCols(channels).isZero(0));
  }
  Trace<double> trace;
  CHECK_THAT(
      what_of([&] { (void)lstm<double>(trace.input(Array<double>(drawn(5, tokens, 11))), Array<double>(drawn(1, 12, 3)), {}, {}, {}); }),
      contains_text("lstm: the input is (5, 11), expected (5, 12)"));
}

TEST_CASE("a GRU's cells, from their gates' sums to their outputs and back", "[trace]") {
  for (const bool whole : {false, true}) {
    const Constants constants(3, whole);
    const Numbers input = drawn(7, tokens, 3 * channels);
    Numbers candidates(tokens, channels), outputs(tokens, channels);
    std::vector<double> h = Constants::start(constants.h0);
    for (Index t = 0; t < tokens; ++t) {
      std::vector<double> next = h;
      for (Index e = 0; e < channels; ++e) {
        const auto recurrent = [&](Index gate) { return constants.recurrent(gate * channels + e, h); };
        const double r = sigmoid_of(input(t, e) + recurrent(0)), z = sigmoid_of(input(t, channels + e) + recurrent(1));
        candidates(t, e) = std::tanh(input(t, 2 * channels + e) + r * recurrent(2));
        next[static_cast<std::size_t>(e)] = outputs(t, e) = z * h[static_cast<std::size_t>(e)] + (1 - z) * candidates(t, e);
      }
      h = next;
    }
    const auto run = [&](const Value<double>& sums) {
      return gru(sums, Constants::array(constants.weight), Constants::array(constants.bias), Constants::array(constants.h0));
    };
    INFO((whole ? "with a bias and a state carried in" : "bare"));
    check_operation({"outputs", [&](const Values& v) { return run(v[0]).y; }, {input}, outputs});
    Trace<double> trace;
    const GatedCellPass<double> pass = run(trace.input(Array<double>(Numbers(input))));
    CHECK(difference(*pass.x, candidates) < 1e-14);
    CHECK(pass.gate.empty());
    for (Index e = 0; e < channels; ++e) {
      double state = whole ? constants.h0(0, e) : 0;
      for (Index t = 0; t < tokens; ++t) {
        state = std::exp(pass.log_decay(t, e)) * state + pass.write(t, e) * pass.x.numbers(t, e);
        CHECK(std::abs(state - outputs(t, e)) < 1e-13);
      }
    }
    const Pass held({"", [&](const Values& v) { return run(v[0]).y; }, {input}, {}}, true, {true});
    const Numbers g = drawn(8, tokens, channels);
    const WalkResult<double> walked = held.walk(WayBack::attention, g);
    CHECK(std::abs(walked.bias_share + test_support::dot(walked.gradients[0], input) - test_support::dot(g, outputs)) < 1e-12);
    CHECK(walked.gradients[0].leftCols(2 * channels).isZero(0));
  }
  Trace<double> trace;
  CHECK_THAT(what_of([&] { (void)gru<double>(trace.input(Array<double>(drawn(5, tokens, 8))), Array<double>(drawn(1, 9, 3)), {}, {}); }),
             contains_text("gru: the input is (5, 8), expected (5, 9)"));
}

}  // namespace gated_cell_cases
