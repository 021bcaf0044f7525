// The operations that layers are written from, against plain double loops.
#include <cmath>
#include <string>
#include <vector>

#include <support/errors.hpp>

#include <implicit_attention/trace/low_rank.hpp>
#include <implicit_attention/trace/operations.hpp>

#include "operation_checks.hpp"

namespace operation_cases {

using namespace operation_checks;
using test_support::what_of;

Numbers drawn(std::uint64_t seed, Index rows, Index columns) { return Draw(seed).normals<double>(rows, columns); }
Array<double> constant(const Numbers& numbers) { return Numbers(numbers); }

/// x weight^T + bias.
Numbers projected(const Numbers& x, const Numbers& weight, const Numbers& bias) {
  Numbers out(x.rows(), weight.rows());
  for (Index t = 0; t < x.rows(); ++t)
    for (Index o = 0; o < weight.rows(); ++o) {
      out(t, o) = bias.size() == 0 ? 0 : bias(0, o);
      for (Index i = 0; i < x.cols(); ++i) out(t, o) += x(t, i) * weight(o, i);
    }
  return out;
}

TEST_CASE("projections, with and without a bias, in blocks and beside an adapter", "[trace]") {
  const Numbers x = drawn(1, 5, 6), weight = drawn(2, 4, 6), bias = drawn(3, 1, 4);
  check_operation({"linear", [&](const Values& v) { return linear(v[0], constant(weight)); }, {x}, projected(x, weight, {})});
  check_operation(
      {"linear, biased", [&](const Values& v) { return linear(v[0], constant(weight), constant(bias)); }, {x}, projected(x, weight, bias)});
  LowRank<double> adapter;
  CHECK(adapter.empty());
  adapter.check("layer", "adapter", 4, 6);  // none is none
  adapter.down = drawn(4, 2, 6);
  adapter.up = drawn(5, 4, 2);
  CHECK(!adapter.empty());
  adapter.check("layer", "adapter", 4, 6);
  const Numbers added = projected(projected(x, adapter.down.matrix(), {}), adapter.up.matrix(), {});
  check_operation({"linear, adapted",
                   [&](const Values& v) { return adapted_linear(v[0], constant(weight), constant(bias), adapter); },
                   {x},
                   projected(x, weight, bias) + added});
  CHECK(adapter.outputs(1, 2).up.matrix() == adapter.up.matrix().middleRows(1, 2));
  CHECK_THAT(what_of([&] { adapter.check("layer", "adapter", 4, 5); }),
             contains_text("layer: adapter, first factor is (2, 6), expected (2, 5)"));
  CHECK_THAT(what_of([&] { adapter.check("layer", "adapter", 3, 6); }),
             contains_text("layer: adapter, second factor is (4, 2), expected (3, 2)"));

  const Numbers blocks = drawn(6, 6, 3), block_bias = drawn(7, 2, 3);  // [h, q] = sum_p x[h, p] weight[h, p, q]
  for (const bool biased : {false, true}) {
    Numbers expected = Numbers::Zero(5, 6);
    for (Index t = 0; t < 5; ++t)
      for (Index h = 0; h < 2; ++h)
        for (Index q = 0; q < 3; ++q) {
          if (biased) expected(t, 3 * h + q) = block_bias(h, q);
          for (Index p = 0; p < 3; ++p) expected(t, 3 * h + q) += x(t, 3 * h + p) * blocks(3 * h + p, q);
        }
    check_operation({biased ? "block_linear, biased" : "block_linear",
                     [&](const Values& v) { return block_linear(v[0], constant(blocks), biased ? constant(block_bias) : Array<double>()); },
                     {x},
                     expected});
  }
  Trace<double> trace;
  CHECK_THAT(what_of([&] { (void)linear(trace.input(constant(x)), constant(drawn(2, 4, 5))); }),
             contains_text("linear: the input is (5, 6), expected (tokens, 5)"));
  CHECK_THAT(what_of([&] { (void)block_linear(trace.input(constant(x)), constant(drawn(2, 5, 3))); }),
             contains_text("block_linear: the weight is (5, 3), expected (6, 3)"));
}

TEST_CASE("a projection whose numbers are known is not computed, and has its way back", "[trace]") {
  const Numbers x = drawn(1, 3, 6), weight = drawn(2, 4, 6), other = drawn(3, 3, 4), g = drawn(4, 3, 4);
  const Array<double> known = constant(other);
  Trace<double> trace(true);
  const Value<double> in = trace.input(constant(x)), out = linear(in, constant(weight), {}, &known);
  CHECK(out.numbers.data() == known.data());
  const Numbers back = trace.walk_back(WayBack::gradient, {{out, g}}, {in}).gradients[0];
  CHECK(difference(back, projected(g, weight.transpose(), {})) < 1e-13);
}

TEST_CASE("a projection's way back leaves out tokens before the first that is reached", "[trace]") {
  const Numbers weight = drawn(12, 4, 6), before = drawn(13, 5, 6);
  for (const Index reached : {0, 1, 3, 4, 5}) {  // 5: none
    INFO("from token " << reached);
    Numbers g = drawn(14, 5, 4);
    g.topRows(reached).setZero();
    const Numbers expected = projected(g, weight.transpose(), {});
    Numbers gradient;
    detail::project_back<double>(g, constant(weight), gradient);
    CHECK((gradient - expected).cwiseAbs().maxCoeff() <= 1e-14);
    gradient = before;
    detail::project_back<double>(g, constant(weight), gradient);
    CHECK((gradient - before - expected).cwiseAbs().maxCoeff() <= 1e-14);
  }
  Numbers g = Numbers::Zero(3, 4);
  g(1, 2) = std::nan("");
  CHECK(detail::first_row_reached<double>(g) == 1);
}

TEST_CASE("columns are taken, gathered and joined", "[trace]") {
  const Numbers x = drawn(8, 5, 6), y = drawn(9, 5, 2);
  check_operation({"columns", [](const Values& v) { return columns(v[0], 2, 3); }, {x}, x.middleCols(2, 3)});
  check_operation({"overlapping columns",
                   [](const Values& v) {
                     return join<double>({columns(v[0], 0, 4), columns(v[0], 2, 3)});
                   },
                   {x},
                   (Numbers(5, 7) << x.leftCols(4), x.middleCols(2, 3)).finished()});
  const std::vector<Index> chosen = {5, 0, 0, 3};
  Numbers gathered(5, 4);
  for (Index k = 0; k < 4; ++k) gathered.col(k) = x.col(chosen[static_cast<std::size_t>(k)]);
  check_operation({"gather_columns", [&](const Values& v) { return gather_columns(v[0], chosen); }, {x}, gathered});
  check_operation({"join", [](const Values& v) { return join(v); }, {x, y, x}, (Numbers(5, 14) << x, y, x).finished()});
}

/// With the mean taken off where `centred`, each group divided by the root of its mean square.
Numbers normalized(const Numbers& x, Index groups, double eps, bool centred) {
  Numbers out = x;
  const Index size = x.cols() / groups;
  for (Index t = 0; t < x.rows(); ++t)
    for (Index group = 0; group < groups; ++group) {
      double mean = 0, square = 0;
      for (Index c = 0; c < size && centred; ++c) mean += x(t, group * size + c) / static_cast<double>(size);
      for (Index c = 0; c < size; ++c) square += std::pow(x(t, group * size + c) - mean, 2) / static_cast<double>(size);
      for (Index c = 0; c < size; ++c) out(t, group * size + c) = (x(t, group * size + c) - mean) / std::sqrt(square + eps);
    }
  return out;
}

TEST_CASE("norms: of the root mean square and of the layer, with groups, weights stored as they are and less one", "[trace]") {
  const double eps = 1e-3;
  const Numbers x = drawn(10, 5, 6), weight = drawn(11, 1, 6), bias = drawn(12, 1, 6);
  const Numbers weights = weight.replicate(5, 1), biases = bias.replicate(5, 1);
  for (const Index groups : {1, 2, 3}) {
    const std::string of = " of " + std::to_string(groups) + " groups";
    const Numbers rms = normalized(x, groups, eps, false), layer = normalized(x, groups, eps, true);
    const auto check = [&](const std::string& what, const Norm<double>& norm, const Numbers& expected) {
      check_operation({what + of, [&](const Values& v) { return normalize(norm, v[0]); }, {x}, expected});
      Trace<double> trace;
      Norm<double>::Statistics statistics;
      const Value<double> out = normalize(norm, trace.input(constant(x)), &statistics);  // where they are asked for
      CHECK(difference(out.numbers.matrix(), expected) < 1e-12);
      CHECK(norm.apply(x, statistics) == out.numbers.matrix());
      CHECK(norm.groups() == groups);
      CHECK(norm.centred() == (what[0] == 'L'));
      // What a norm multiplies by, apart from what it subtracts and adds.
      Numbers held = norm.held_scale(statistics);
      for (Index t = 0; t < 5; ++t)
        for (Index c = 0; c < 6; ++c) held(t, c) *= x(t, c) - statistics.mean(t, c / (6 / groups));
      if (norm.bias().size() != 0) held += biases;
      CHECK(difference(held, expected) < 1e-12);
    };
    check("RMSNorm", Norm<double>::rms(constant(weight), eps, false, groups), rms.cwiseProduct(weights));
    check("RMSNorm, one plus its weight", Norm<double>::rms(constant(weight), eps, true, groups),
          rms.cwiseProduct(weights + Numbers::Ones(5, 6)));
    check("RMSNorm without a weight", Norm<double>::rms(Index(6), eps, groups), rms);
    check("LayerNorm", Norm<double>::layer(constant(weight), {}, eps, groups), layer.cwiseProduct(weights));
    check("LayerNorm, biased", Norm<double>::layer(constant(weight), constant(bias), eps, groups), layer.cwiseProduct(weights) + biases);
  }
  CHECK(Norm<double>().empty());
  CHECK_THAT(what_of([&] { (void)Norm<double>::layer(constant(weight), constant(drawn(1, 1, 5)), eps); }),
             contains_text("LayerNorm: bias is"));
  Trace<double> trace;
  const Norm<double> norm = Norm<double>::rms(Index(4), eps);
  CHECK_THAT(what_of([&] { (void)normalize(norm, trace.input(constant(x))); }),
             contains_text("norm: the input is (5, 6), expected (tokens, 4)"));
}

TEST_CASE("the mean of each group is taken off", "[trace]") {
  const Numbers x = drawn(13, 4, 6);
  for (const Index groups : {1, 2, 6}) {
    Numbers expected = x;
    const Index size = 6 / groups;
    for (Index t = 0; t < 4; ++t)
      for (Index c = 0; c < 6; ++c) expected(t, c) -= x.row(t).segment(c / size * size, size).mean();
    check_operation({"centre", [groups](const Values& v) { return centre(v[0], groups); }, {x}, expected});
  }
}

TEST_CASE("numbers are capped softly, and relevance divides by how much", "[trace]") {
  Numbers x = drawn(14, 4, 6) * 3;
  x(1, 2) = 0;
  const double cap = 2;
  const Numbers expected = each_number(x, [&](double number) { return cap * std::tanh(number / cap); });
  check_operation({"soft_cap", [&](const Values& v) { return soft_cap(v[0], cap); }, {x}, expected});
  // Where the numbers are known they are taken, and go back as those that are computed.
  const Array<double> known = constant(expected);
  const Numbers g = drawn(15, 4, 6);
  Trace<double> trace(true);
  const Value<double> in = trace.input(constant(x)), capped = soft_cap(in, cap), given = soft_cap(in, cap, &known);
  CHECK(given.numbers.data() == known.data());
  for (const WayBack way : {WayBack::gradient, WayBack::relevance})
    CHECK(difference(trace.walk_back(way, {{given, g}}, {in}).gradients[0], trace.walk_back(way, {{capped, g}}, {in}).gradients[0]) <
          1e-13);
}

}  // namespace operation_cases
