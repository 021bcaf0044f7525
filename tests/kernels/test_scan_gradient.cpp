// The gradients of a diagonal recurrence, against finite differences of the recurrence in plain loops.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <support/catch.hpp>
#include <support/executors.hpp>
#include <support/finite_differences.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/scan_gradient.hpp>

namespace {

using namespace implicit_attention;
using test_support::backwards_executor;
using test_support::Draw;
using test_support::two_threads;

// All inputs of a diagonal recurrence as plain matrices, and its output token by token, from the equation in recurrence.hpp.
struct PlainRecurrence {
  Matrix<double> a, step, rate, query, key, query_scale, key_scale, diagonal, gate, skip, initial;
  std::vector<Index> starts;
  bool read_before_update = false;

  static double at(const Matrix<double>& m, Index i, Index j) { return m.size() == 0 ? 1.0 : m(i, j); }
  double functional(const Matrix<double>& g) const {
    const Index states = std::max(rate.rows(), Index(1));
    double sum = 0;
    for (Index e = 0; e < a.cols(); ++e) {
      std::vector<double> h(static_cast<std::size_t>(states), 0.0);
      for (Index n = 0; n < states; ++n)
        if (initial.size() != 0) h[static_cast<std::size_t>(n)] = initial(n, e);
      for (Index t = 0; t < a.rows(); ++t) {
        for (const Index start : starts)
          if (start == t) std::fill(h.begin(), h.end(), 0.0);
        double y = 0;
        for (Index n = 0; n < states; ++n) {
          double& s = h[static_cast<std::size_t>(n)];
          if (read_before_update) y += at(query, t, n) * s;
          s = std::exp(at(rate, n, e) * step(t, e)) * s + at(key, t, n) * at(key_scale, t, e) * a(t, e);
          if (!read_before_update) y += at(query, t, n) * s;
        }
        y *= at(query_scale, t, e);
        if (read_before_update) y += diagonal(t, e) * a(t, e);
        if (skip.size() != 0) y += skip(0, e) * a(t, e);
        sum += g(t, e) * at(gate, t, e) * y;
      }
    }
    return sum;
  }
  SurroundedDiagonal<double> surrounded() const {
    SurroundedDiagonal<double> surrounded;
    DiagonalRecurrence<double>& r = surrounded.recurrence;
    r.tokens = a.rows();
    r.channels = a.cols();
    r.state = std::max(rate.rows(), Index(1));
    r.step = step;
    const auto set = [](Array<double>& to, const Matrix<double>& from) {
      if (from.size() != 0) to = from;
    };
    set(r.rate, rate);
    set(r.query, query);
    set(r.key, key);
    set(r.query_scale, query_scale);
    set(r.key_scale, key_scale);
    set(r.diagonal, diagonal);
    r.read_before_update = read_before_update;
    r.starts = starts;
    set(surrounded.gate, gate);
    set(surrounded.skip, skip);
    return surrounded;
  }
};

}  // namespace

TEST_CASE("a scan's gradients are those of finite differences", "[gradient]") {
  struct Case {
    Index tokens, channels, states;
    bool read_before_update, scaled, selective, carried, documents;
  };
  const std::vector<Case> cases = {{1, 5, 3, false, true, true, false, false},
                                   {2, 17, 1, false, true, false, true, false},
                                   {3, 5, 16, false, true, true, true, false},
                                   {40, 17, 3, false, true, true, false, true},
                                   {40, 65, 1, false, false, false, false, false},
                                   {150, 70, 16, false, true, true, true, true},
                                   {150, 5, 1, false, true, false, true, true},
                                   {64, 5, 3, false, true, true, true, false},
                                   {65, 5, 3, false, true, true, true, true},
                                   {1, 5, 1, true, true, false, true, false},
                                   {40, 17, 1, true, true, false, true, true},
                                   {150, 85, 3, true, true, true, true, true},
                                   {129, 5, 16, true, false, true, false, false},
                                   // more tokens times states than are kept at a time: several blocks
                                   {700, 17, 16, false, true, true, true, true},
                                   {70, 5, 200, false, true, true, true, false},
                                   {9000, 1, 1, true, true, false, true, true}};
  std::uint64_t seed = 1;
  for (const Case& c : cases) {
    const bool gated = seed % 2 == 0, skipped = seed % 3 == 0;
    INFO("seed " << seed << ": tokens " << c.tokens << ", channels " << c.channels << ", states " << c.states << ", read_before_update "
                 << c.read_before_update);
    Draw draw(seed++);
    PlainRecurrence plain;
    plain.a = draw.normals<double>(c.tokens, c.channels);
    plain.step = draw.normals<double>(c.tokens, c.channels).cwiseAbs() * 0.3;
    if (c.states > 1)
      plain.rate = -draw.normals<double>(c.states, c.channels).cwiseAbs();
    else
      plain.step = -plain.step;
    if (c.selective) {
      plain.query = draw.normals<double>(c.tokens, c.states);
      plain.key = draw.normals<double>(c.tokens, c.states);
    }
    if (c.scaled) {
      plain.query_scale = draw.normals<double>(c.tokens, c.channels);
      plain.key_scale = draw.normals<double>(c.tokens, c.channels);
    }
    plain.read_before_update = c.read_before_update;
    if (c.read_before_update) plain.diagonal = draw.normals<double>(c.tokens, c.channels);
    if (gated) plain.gate = draw.normals<double>(c.tokens, c.channels);
    if (skipped) plain.skip = draw.normals<double>(1, c.channels);
    if (c.carried) plain.initial = draw.normals<double>(c.states, c.channels);
    if (c.documents) plain.starts = {c.tokens / 3, c.tokens / 3 + 1, c.tokens - 4};
    const Matrix<double> g = draw.normals<double>(c.tokens, c.channels);

    SurroundedDiagonal<double> surrounded = plain.surrounded();
    const Array<double> initial = Array<double>::view(plain.initial);
    const ScanGradient<double> gradient = scan_gradient<double>(surrounded, plain.a, initial, g);
    const auto check = [&](const char* name, Matrix<double> PlainRecurrence::*member, const Matrix<double>& found) {
      if ((plain.*member).size() == 0) {
        CHECK(found.size() == 0);
        return;
      }
      test_support::check_gradient(
          name, plain.*member, found,
          [&](const Matrix<double>& value) {
            PlainRecurrence changed = plain;
            changed.*member = value;
            return changed.functional(g);
          },
          draw);
    };
    check("a", &PlainRecurrence::a, gradient.input);
    check("step", &PlainRecurrence::step, gradient.step);
    check("query", &PlainRecurrence::query, gradient.query);
    check("key", &PlainRecurrence::key, gradient.key);
    check("query_scale", &PlainRecurrence::query_scale, gradient.query_scale);
    check("key_scale", &PlainRecurrence::key_scale, gradient.key_scale);
    check("diagonal", &PlainRecurrence::diagonal, gradient.diagonal);
    check("gate", &PlainRecurrence::gate, gradient.gate);

    for (const Executor& executor : {backwards_executor(), two_threads()}) {
      const ScanGradient<double> again = scan_gradient<double>(surrounded, plain.a, initial, g, executor);
      CHECK(again.input == gradient.input);
      CHECK(again.step == gradient.step);
      CHECK(again.query == gradient.query);
      CHECK(again.key == gradient.key);
      CHECK(again.query_scale == gradient.query_scale);
      CHECK(again.key_scale == gradient.key_scale);
      CHECK(again.diagonal == gradient.diagonal);
      CHECK(again.gate == gradient.gate);
    }
    if (!gated && !skipped) CHECK(scan_gradient<double>(surrounded.recurrence, plain.a, initial, g).input == gradient.input);

    surrounded.recurrence.key_scale = surrounded.recurrence.step;
    const ScanGradient<double> apart = scan_gradient<double>(surrounded, plain.a, initial, g),
                               joint = scan_gradient<double>(surrounded, plain.a, initial, g, serial_executor(), true);
    CHECK(joint.key_scale.size() == 0);
    CHECK(joint.step.isApprox(apart.step + apart.key_scale, 1e-12));
    CHECK(joint.input == apart.input);
  }
}

TEST_CASE("what is made where it is read has the gradient of what was made before", "[gradient]") {
  const NumberChange<double> square = [](detail::Numbers<double> numbers) { numbers = numbers * numbers; };
  const NumberChange<double> twice = [](detail::Numbers<double> numbers) { numbers = numbers + numbers; };
  for (const Index tokens : {Index(7), Index(9000)}) {  // in one block, and in several
    Draw draw(12);
    const Index channels = tokens > 100 ? 1 : 41;
    SurroundedDiagonal<double> surrounded;
    surrounded.recurrence.tokens = tokens;
    surrounded.recurrence.channels = channels;
    surrounded.recurrence.state = 1;
    surrounded.recurrence.step = Matrix<double>(-draw.normals<double>(tokens, channels).cwiseAbs());
    surrounded.skip = draw.normals<double>(1, channels);
    const Matrix<double> a = draw.normals<double>(tokens, channels), z = draw.normals<double>(tokens, channels),
                         g = draw.normals<double>(tokens, channels);
    surrounded.gate = Matrix<double>(z.cwiseProduct(z));
    ScanGradient<double> expected = scan_gradient<double>(surrounded, a.cwiseProduct(a).eval(), {}, g);
    expected.gate.array() *= 2 * z.array();
    surrounded.gate = z;
    const ScanGradient<double> found = scan_gradient<double>(surrounded, a, {}, g, serial_executor(), false, {square, square, twice});
    CHECK(found.input.isApprox(expected.input, 1e-12));
    CHECK(found.step.isApprox(expected.step, 1e-12));
    CHECK(found.gate.isApprox(expected.gate, 1e-12));
  }
}

TEST_CASE("a gradient that is not finite stays in its document", "[gradient]") {
  Draw draw(11);
  const Index tokens = 9, channels = 5, states = 3, start = 4;
  DiagonalRecurrence<double> recurrence;
  recurrence.tokens = tokens;
  recurrence.channels = channels;
  recurrence.state = states;
  recurrence.step = Matrix<double>(draw.normals<double>(tokens, channels).cwiseAbs());
  recurrence.rate = Matrix<double>(-draw.normals<double>(states, channels).cwiseAbs());
  recurrence.query = draw.normals<double>(tokens, states);
  recurrence.key = draw.normals<double>(tokens, states);
  recurrence.starts = {0, start};
  const Matrix<double> a = draw.normals<double>(tokens, channels);
  Matrix<double> g = draw.normals<double>(tokens, channels);
  const ScanGradient<double> clean = scan_gradient<double>(recurrence, a, {}, g);
  g(start + 2, 0) = std::numeric_limits<double>::infinity();
  const ScanGradient<double> found = scan_gradient<double>(recurrence, a, {}, g);
  CHECK(found.input.topRows(start) == clean.input.topRows(start));
  CHECK(found.step.topRows(start) == clean.step.topRows(start));
  CHECK(found.key.topRows(start) == clean.key.topRows(start));
  CHECK(found.step.row(start).isZero(0));
  CHECK_FALSE(std::isfinite(found.input(start, 0)));
}
