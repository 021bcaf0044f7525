// Operations between heads, tokens and pixels, against plain double loops.
#include <cmath>
#include <string>
#include <vector>

#include <support/errors.hpp>

#include <implicit_attention/trace/data_rotation.hpp>
#include <implicit_attention/trace/elementwise.hpp>
#include <implicit_attention/trace/head_scales.hpp>
#include <implicit_attention/trace/heads.hpp>
#include <implicit_attention/trace/image.hpp>
#include <implicit_attention/trace/operations.hpp>
#include <implicit_attention/trace/rotary.hpp>
#include <implicit_attention/trace/token_order.hpp>

#include "operation_checks.hpp"

namespace head_operation_cases {

using namespace operation_checks;
using test_support::what_of;

Numbers drawn(std::uint64_t seed, Index rows, Index columns) { return Draw(seed).normals<double>(rows, columns); }
Array<double> constant(const Numbers& numbers) { return Numbers(numbers); }

TEST_CASE("heads are repeated, multiplied with each other, and spread", "[trace]") {
  const Index tokens = 5, heads = 4, key_heads = 2, size = 3;
  const Numbers keys = drawn(1, tokens, key_heads * size), a = drawn(2, tokens, heads * size), b = drawn(3, tokens, heads * size);
  Numbers repeated(tokens, heads * size), dots = Numbers::Zero(tokens, heads), spread(tokens, heads * size);
  const Numbers one_each = drawn(4, tokens, heads);
  for (Index t = 0; t < tokens; ++t)
    for (Index h = 0; h < heads; ++h)
      for (Index c = 0; c < size; ++c) {
        repeated(t, h * size + c) = keys(t, h / 2 * size + c);
        dots(t, h) += a(t, h * size + c) * b(t, h * size + c);
        spread(t, h * size + c) = one_each(t, h);
      }
  check_operation({"repeat_heads", [](const Values& v) { return repeat_heads(v[0], 2, 4); }, {keys}, repeated});
  check_operation({"repeat_heads, once", [](const Values& v) { return times(repeat_heads(v[0], 2, 2), 2.0); }, {keys}, 2 * keys});
  check_operation({"head_dot", [](const Values& v) { return head_dot(v[0], v[1], 4); }, {a, b}, dots, {}, "head_dot"});
  check_operation({"spread_heads", [](const Values& v) { return spread_heads(v[0], 3); }, {one_each}, spread});
  Trace<double> trace;
  CHECK_THAT(what_of([&] { (void)head_dot(trace.input(constant(a)), trace.input(constant(keys)), 4); }),
             contains_text("head_dot: the second factor is (5, 6), expected (5, 12)"));
}

TEST_CASE("rates and lengths of heads", "[trace]") {
  const Numbers x = drawn(5, 5, 6);
  const auto rate = [](const Values& v) { return negative_exp(v[0]); };
  check_operation({"negative_exp", rate, {x}, each_number(x, [](double number) { return -std::exp(number); }), {}, "negative_exp"});
  // Beyond 60 a rate is that of 60, and its slope 0; a NaN stays.
  Numbers far(1, 3);
  far << 61, 60, std::nan("");
  const Pass pass({"", rate, {far}, {}}, true, {true});
  CHECK(pass.out.numbers(0, 0) == Approx(-std::exp(60.0)));
  CHECK(std::isnan(pass.out.numbers(0, 2)));
  const Numbers slopes = pass.walk(WayBack::gradient, Numbers::Ones(1, 3)).gradients[0];
  CHECK(slopes(0, 0) == 0);
  CHECK(slopes(0, 1) == Approx(-std::exp(60.0)));
  CHECK(std::isnan(slopes(0, 2)));

  Numbers keys = drawn(6, 5, 6);
  keys.row(2) *= 1e-3;  // shorter than the floor
  const double floor = 0.05;
  Numbers unit = keys;
  for (Index t = 0; t < 5; ++t)
    for (Index h = 0; h < 2; ++h) unit.row(t).segment(3 * h, 3) /= std::max(std::sqrt(keys.row(t).segment(3 * h, 3).squaredNorm()), floor);
  check_operation({"unit_length", [&](const Values& v) { return unit_length(v[0], 2, floor); }, {keys}, unit});
  Trace<double> trace;
  const Numbers tiny = Numbers::Constant(1, 4, 1e-200);  // whose square is 0
  CHECK(unit_length(trace.input(constant(tiny)), 1, 1e-300).numbers(0, 3) == Approx(0.5));
}

/// Pairs of numbers of every head turned by angle(token, head, pair).
template <class Angle>
Numbers turned(const Numbers& x, Index heads, Index pairs, bool neighbours, Index apart, const Angle& angle) {
  Numbers out = x;
  const Index size = x.cols() / heads;
  for (Index t = 0; t < x.rows(); ++t)
    for (Index h = 0; h < heads; ++h)
      for (Index n = 0; n < pairs; ++n) {
        const Index one = h * size + (neighbours ? 2 * n : n), other = neighbours ? one + 1 : one + apart;
        const double by = angle(t, h, n);
        out(t, one) = x(t, one) * std::cos(by) - x(t, other) * std::sin(by);
        out(t, other) = x(t, other) * std::cos(by) + x(t, one) * std::sin(by);
      }
  return out;
}

TEST_CASE("heads are rotated by their tokens' positions", "[trace]") {
  const Numbers x = drawn(7, 4, 12);  // two heads of six numbers
  const std::vector<Index> positions = {3, 0, 100, 7};
  for (const bool pairs : {false, true})
    for (const Index rotated : {2, 4, 6}) {
      Rotary rotary;
      rotary.head_size = 6, rotary.rotated = rotated, rotary.pairs = pairs, rotary.base = 50;
      const auto angle = [&](Index t, Index, Index n) {
        return static_cast<double>(positions[static_cast<std::size_t>(t)]) *
               std::pow(50.0, -2.0 * static_cast<double>(n) / static_cast<double>(rotated));
      };
      check_operation({"rotary_positions",
                       [&](const Values& v) { return rotary_positions(v[0], rotary, positions); },
                       {x},
                       turned(x, 2, rotated / 2, pairs, rotated / 2, angle)});
    }
  Rotary own;
  own.head_size = 6, own.rotated = 4, own.frequencies = {0.3, 0.02};
  check_operation({"rotary_positions, with frequencies of its own",
                   [&](const Values& v) { return rotary_positions(v[0], own, positions); },
                   {x},
                   turned(x, 2, 2, false, 2, [&](Index t, Index, Index n) {
                     return static_cast<double>(positions[static_cast<std::size_t>(t)]) * (n == 0 ? 0.3 : 0.02);
                   })});
  Trace<double> trace(true);
  const Value<double> value = trace.input(constant(x));
  CHECK(rotary_positions(value, Rotary{}, positions).slot == value.slot);  // nothing is rotated
}

TEST_CASE("angles add up from token to token, and rotate", "[trace]") {
  const double pi = 3.14159265358979323846;
  const Index tokens = 6, angles = 2, heads = 2;
  const Numbers rate = drawn(8, tokens, angles), dt = Draw(9).uniforms<double>(tokens, heads, 0.1, 1),
                before = drawn(10, 1, heads * angles);
  for (const bool carried : {false, true}) {
    // Angles themselves jump where they pass pi: what they do is compared.
    const auto run = [&](const Values& v) {
      const Value<double> theta = running_angles(v[0], v[1], carried ? constant(before) : Array<double>());
      const Numbers x = Numbers::Ones(tokens, 2 * heads * angles);
      return rotate_by_angles(v[0].trace->constant(constant(x)), theta, heads, true);
    };
    Numbers sums(tokens, heads * angles);
    for (Index h = 0; h < heads; ++h)
      for (Index n = 0; n < angles; ++n) {
        double sum = carried ? before(0, h * angles + n) : 0;
        for (Index t = 0; t < tokens; ++t) sums(t, h * angles + n) = sum += pi * std::tanh(rate(t, n)) * dt(t, h);
      }
    const Numbers expected =
        turned(Numbers::Ones(tokens, 8), heads, angles, true, 1, [&](Index t, Index h, Index n) { return sums(t, h * angles + n); });
    const Operation operation{"", run, {rate, dt}, expected};
    const Pass pass(operation, true, {true, true});
    CHECK(difference(pass.out.numbers.matrix(), expected) < 1e-13);
    Draw draw(11);
    const Numbers g = draw.normals<double>(tokens, 8);
    const WalkResult<double> walked = pass.walk(WayBack::gradient, g);
    for (std::size_t k = 0; k < 2; ++k)
      test_support::check_gradient(
          "input " + std::to_string(k), operation.inputs[k], walked.gradients[k],
          [&](const Numbers& point) {
            Operation changed = operation;
            changed.inputs[k] = point;
            return test_support::dot(g, Pass(changed, false, {true, true}).out.numbers.matrix());
          },
          draw);
    // Relevance does not reach angles, which are scales.
    const WalkResult<double> relevance = pass.walk(WayBack::relevance, g);
    CHECK(relevance.untreated.empty());
    CHECK(relevance.gradients[0].isZero(0));
    CHECK(relevance.gradients[1].isZero(0));
    const Pass bare({"", [&](const Values& v) { return running_angles(v[0], v[1]); }, {rate, dt}, {}}, true, {true, true});
    CHECK(bare.walk(WayBack::relevance, drawn(1, tokens, 4)).untreated == std::vector<std::string>{"running angles"});
    CHECK(bare.out.numbers.matrix().cwiseAbs().maxCoeff() <= pi + 1e-12);
  }
  for (const bool neighbours : {false, true}) {
    const Numbers x = drawn(12, tokens, 2 * 6), theta = drawn(13, tokens, 2 * 2);  // two of the three pairs of a head
    check_operation({"rotate_by_angles",
                     [&](const Values& v) { return rotate_by_angles(v[0], v[1], 2, neighbours); },
                     {x, theta},
                     turned(x, 2, 2, neighbours, 3, [&](Index t, Index h, Index n) { return theta(t, 2 * h + n); }),
                     {1}});
  }
  const Numbers x = off_zero(drawn(14, 4, 5));
  check_operation({"heavy tail",
                   [](const Values& v) { return heavy_tail(v[0]); },
                   {x},
                   each_number(x, [](double t) { return t >= 0 ? 1 + t : 1 / (1 - t); }),
                   {},
                   "heavy tail"});
  Trace<double> trace;
  CHECK_THAT(what_of([&] { (void)rotate_by_angles(trace.input(constant(x)), trace.input(constant(drawn(1, 3, 2))), 1, true); }),
             contains_text("rotate_by_angles: theta is (3, 2), expected (4, 2)"));
}

TEST_CASE("tokens in another order", "[trace]") {
  const Numbers x = drawn(15, 5, 3);
  Numbers backward(5, 3), next = Numbers::Zero(5, 3);
  for (Index t = 0; t < 5; ++t) backward.row(t) = x.row(4 - t);
  for (Index t = 0; t < 4; ++t) next.row(t) = x.row(t + 1);
  check_operation({"reverse_tokens", [](const Values& v) { return reverse_tokens(v[0]); }, {x}, backward});
  check_operation({"next_token", [](const Values& v) { return next_token(v[0]); }, {x}, next});
  const Numbers one = drawn(16, 1, 3);
  Trace<double> trace;
  CHECK(next_token(trace.input(constant(one))).numbers.matrix().isZero(0));
}

TEST_CASE("pixels: convolution with zeros beyond the border, means, and attention to all of them", "[trace]") {
  const ImageGrid grid{3, 4};
  const Index channels = 2;
  const Numbers x = drawn(17, grid.tokens(), channels), bias = drawn(18, 1, channels);
  for (const Index width : {1, 3, 5, 9})  // the last is wider than the image
    for (const bool biased : {false, true}) {
      const Numbers taps = drawn(19, width * width, channels);
      Numbers expected = Numbers::Zero(12, channels);
      for (Index row = 0; row < 3; ++row)
        for (Index column = 0; column < 4; ++column)
          for (Index c = 0; c < channels; ++c) {
            double& sum = expected(row * 4 + column, c);
            if (biased) sum = bias(0, c);
            for (Index i = 0; i < width; ++i)
              for (Index j = 0; j < width; ++j) {
                const Index from_row = row + i - width / 2, from_column = column + j - width / 2;
                if (from_row >= 0 && from_row < 3 && from_column >= 0 && from_column < 4)
                  sum += taps(i * width + j, c) * x(from_row * 4 + from_column, c);
              }
          }
      check_operation(
          {"image_convolution",
           [&](const Values& v) { return image_convolution(v[0], grid, width, constant(taps), biased ? constant(bias) : Array<double>()); },
           {x},
           expected});
    }
  check_operation({"token_mean", [](const Values& v) { return token_mean(v[0]); }, {x}, Numbers(x.colwise().mean().replicate(12, 1))});
  const Index heads = 2, keys = 3, values = 2;
  const Numbers q = drawn(20, 5, heads * keys), k = drawn(21, 5, heads * keys), values_of = drawn(22, 5, heads * values);
  Numbers attended = Numbers::Zero(5, heads * values);
  for (Index h = 0; h < heads; ++h)
    for (Index i = 0; i < 5; ++i)
      for (Index j = 0; j < 5; ++j) {
        double score = 0;
        for (Index n = 0; n < keys; ++n) score += q(i, h * keys + n) * k(j, h * keys + n);
        for (Index c = 0; c < values; ++c) attended(i, h * values + c) += 0.25 * score * values_of(j, h * values + c);
      }
  check_operation({"full_linear_attention",
                   [&](const Values& v) { return full_linear_attention(v[0], v[1], v[2], heads, 0.25); },
                   {q, k, values_of},
                   attended,
                   {0, 1}});
  Trace<double> trace;
  const Value<double> image = trace.input(constant(x));
  CHECK_THAT(what_of([&] {
               (void)image_convolution(image, ImageGrid{3, 5}, 3, constant(drawn(1, 9, 2)));
             }),
             contains_text("image_convolution: the input is (12, 2), expected (15, 2)"));
  CHECK_THAT(what_of([&] { (void)image_convolution(image, grid, 3, constant(drawn(1, 3, 2))); }),
             contains_text("image_convolution: the taps is (3, 2), expected (9, 2)"));
  CHECK_THAT(what_of([&] { (void)full_linear_attention(image, trace.input(constant(q)), image, 1, 1.0); }),
             contains_text("full_linear_attention: the keys is (5, 6), expected (12, 2)"));
}

}  // namespace head_operation_cases
