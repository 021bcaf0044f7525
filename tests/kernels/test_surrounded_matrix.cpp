// What surrounds a head's matrix (gate, skip, activation, convolution with masks): rows of channels and applications against dense products
// of factors that plain loops make from the equations.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/core/thread_executor.hpp>
#include <implicit_attention/kernels/reducers.hpp>
#include <implicit_attention/kernels/surrounded_matrix.hpp>

#include "matrix_cases.hpp"

namespace {

using namespace matrix_cases;

template <class Scalar>
void check_surrounded(MatrixKind kind, Index tokens, unsigned parts, Index width, std::uint64_t seed) {
  INFO((sizeof(Scalar) == 4 ? "float" : "double"));
  SurroundedCase<Scalar> made(kind, tokens, parts, width, seed);
  Surrounded<SharedMatrix<Scalar>>& s = made.surrounded;
  const auto pool = thread_executor(3);
  made.for_choices([&](const std::vector<Index>& channels, const std::vector<Index>& rows, const Matrix<double>& expected) {
    const Index count = static_cast<Index>(rows.size()), chosen = static_cast<Index>(channels.size());
    Matrix<Scalar> got = Matrix<Scalar>::Constant(chosen * count, tokens, Scalar(7)), again = got;
    attention_rows(s, channels, rows, View<Scalar>(got), serial_executor());
    check_matrix<Scalar>(got, expected, "rows");
    attention_rows(s, channels, rows, View<Scalar>(again), pool);
    CHECK((got.array() == again.array()).all());
    if (made.made.causal) {
      bool zeros = true;
      for (Index c = 0; c < chosen; ++c)
        for (Index i = 0; i < count; ++i)
          zeros = zeros && (got.row(c * count + i).tail(tokens - 1 - rows[static_cast<std::size_t>(i)]).array() == Scalar(0)).all();
      CHECK(zeros);
    }
  });

  s.row_weights = {};
  const Index channels = made.made.matrix.channels;
  const Matrix<Scalar> x = made.draw.template normals<Scalar>(tokens, channels), g = made.draw.template normals<Scalar>(tokens, channels);
  Matrix<double> forward(tokens, channels), backward(tokens, channels);
  for (Index e = 0; e < channels; ++e) {
    const Matrix<double> map = made.map_of(e, false);
    forward.col(e) = map * x.col(e).template cast<double>();
    backward.col(e) = map.transpose() * g.col(e).template cast<double>();
  }
  ScanInput<Scalar> input;
  input.x = Array<Scalar>::view(x);
  Matrix<Scalar> out(tokens, channels), many(tokens, channels);
  scan(s, input, View<Scalar>(out), serial_executor());
  check_matrix<Scalar>(out, forward, "application");
  scan(s, input, View<Scalar>(many), pool);
  CHECK((out.array() == many.array()).all());
  scan_transposed(s, ConstView<Scalar>(g), View<Scalar>(out), serial_executor());
  check_matrix<Scalar>(out, backward, "transpose");
  scan_transposed(s, ConstView<Scalar>(g), View<Scalar>(many), pool);
  CHECK((out.array() == many.array()).all());
}

}  // namespace

TEST_CASE("rows and applications of every matrix with everything around it are the dense product of its factors") {
  for_surroundings([](MatrixKind kind, Index tokens, unsigned parts, Index width, std::uint64_t seed, bool in_float) {
    check_surrounded<double>(kind, tokens, parts, width, seed);
    if (in_float) check_surrounded<float>(kind, tokens, parts, width, seed);
  });
}

TEMPLATE_TEST_CASE("rows that are written in several stretches, past the caches: a skip's convolution reaches over their ends", "", double,
                   float) {
  using Scalar = TestType;
  const Index tokens = GENERATE(1040, 1043);                // whole lines, and rows that begin anywhere in one
  const unsigned parts = GENERATE(0b1111111u, 0b0001111u);  // with column weights and documents, and without
  for (const Transition transition : {Transition::diagonal, Transition::delta}) {
    Plan plan;
    plan.transition = transition;
    plan.tokens = tokens;
    plan.heads = 4;
    plan.groups = 2;
    plan.state = 5;
    plan.values = 13;  // a result of over 4 MiB
    plan.seed = 3;
    Case<Scalar> made;
    made.matrix = SharedMatrix<Scalar>(make<Scalar>(plan));
    Draw draw(3);
    Surrounded<SharedMatrix<Scalar>> s = surround(made, parts, 4, draw);
    s.row_weights = {};
    const Index channels = made.matrix.channels;
    const Matrix<Scalar> x = draw.normals<Scalar>(plan.tokens, channels);
    ScanInput<Scalar> input;
    input.x = Array<Scalar>::view(x);
    Matrix<Scalar> applied(plan.tokens, channels);
    scan(s, input, View<Scalar>(applied), serial_executor());
    std::vector<Index> every_channel, some_rows;
    for (Index e = 0; e < channels; ++e) every_channel.push_back(e);
    for (const Index end : {256, 512, 1024})
      for (Index row = end - 2; row < end + 5; ++row) some_rows.push_back(row);
    const Index count = static_cast<Index>(some_rows.size());
    Matrix<Scalar> rows(channels * count, plan.tokens);
    attention_rows(s, every_channel, some_rows, View<Scalar>(rows), serial_executor());
    const double largest = static_cast<double>(applied.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
    REQUIRE(largest > 0);
    double worst = 0;
    for (Index e = 0; e < channels; ++e)
      for (Index i = 0; i < count; ++i) {
        const double error =
            std::abs(static_cast<double>(rows.row(e * count + i).dot(x.col(e)) - applied(some_rows[static_cast<std::size_t>(i)], e)));
        worst = error >= 0 && error <= worst ? worst : error;
      }
    CHECK(worst < (sizeof(Scalar) == 4 ? 1e-5 : 1e-11) * largest);
  }
}

TEMPLATE_TEST_CASE("rows with an infinite gate are infinite by the sign of what it multiplies, those with a tiny one are its products", "",
                   double, float) {
  using Scalar = TestType;
  const unsigned parts = GENERATE(0b0001111u, 0b0111111u);  // by taps, and by factors
  constexpr Scalar infinite = std::numeric_limits<Scalar>::infinity(), tiny = std::numeric_limits<Scalar>::min() / 1024;
  Plan plan;
  plan.tokens = 67;
  plan.heads = 2;
  plan.state = 3;
  plan.values = 4;
  plan.seed = 5;
  Case<Scalar> made;
  made.matrix = SharedMatrix<Scalar>(make<Scalar>(plan));
  Draw draw(5);
  Surrounded<SharedMatrix<Scalar>> s = surround(made, parts, 4, draw);
  s.activation = Matrix<Scalar>(s.activation.matrix() * Scalar(1e6));
  std::vector<Index> every_channel, every_row;
  for (Index e = 0; e < made.matrix.channels; ++e) every_channel.push_back(e);
  for (Index i = 0; i < plan.tokens; ++i) every_row.push_back(i);
  const auto rows_with = [&](Scalar first, Scalar second) {
    Matrix<Scalar> gate = s.gate.matrix();
    gate.row(40).setConstant(first);
    gate.row(50).setConstant(second);
    s.gate = gate;
    Matrix<Scalar> rows(made.matrix.channels * plan.tokens, plan.tokens);
    attention_rows(s, every_channel, every_row, View<Scalar>(rows), serial_executor());
    return rows;
  };
  const Matrix<Scalar> plain = rows_with(1, 1), scaled = rows_with(infinite, tiny);
  Index seen = 0;
  double worst = 0, largest = 0;
  for (Index e = 0; e < made.matrix.channels; ++e)
    for (Index j = 0; j < plan.tokens; ++j) {
      const Index first = e * plan.tokens + 40, second = e * plan.tokens + 50;
      if (plain(first, j) != Scalar(0)) CHECK(scaled(first, j) == plain(first, j) * infinite);
      // Taps times a gate of that size would have lost digits before anything large was multiplied with them.
      worst = std::max(
          worst, std::abs(static_cast<double>(scaled(second, j)) - static_cast<double>(plain(second, j)) * static_cast<double>(tiny)));
      largest = std::max(largest, std::abs(static_cast<double>(plain(second, j)) * static_cast<double>(tiny)));
      seen += plain(first, j) != Scalar(0);
    }
  CHECK(seen > 100);
  CHECK(worst <= 1e-6 * largest);
}

TEST_CASE("around a matrix, a token that is not a number spoils what depends on it and nothing else") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  for (const MatrixKind kind : kinds) {
    const Index tokens = 80, bad = 37;
    Case<double> made = make_case<double>(kind, tokens, 3);
    Draw draw(4);
    Surrounded<SharedMatrix<double>> s = surround(made, 0b0001111u, 4, draw);
    INFO("kind " << static_cast<int>(kind));
    const Index channels = made.matrix.channels;
    // The input of one token: rows before it are untouched, and later ones where a path leads to them.
    Matrix<double> x = draw.normals<double>(tokens, channels);
    const Matrix<double> clean = x;
    x.row(bad).setConstant(nan);
    ScanInput<double> input;
    input.x = Array<double>::view(x);
    Matrix<double> out(tokens, channels), without(tokens, channels);
    scan(s, input, View<double>(out), serial_executor());
    input.x = Array<double>::view(clean);
    scan(s, input, View<double>(without), serial_executor());
    bool right = true;
    for (Index e = 0; e < channels; ++e) {
      const Matrix<double>& matrix = made.heads[static_cast<std::size_t>(made.matrix.head(e))];
      for (Index i = 0; i < tokens; ++i) {
        const bool seen =
            (!made.causal || i >= bad) &&
            matrix.row(i).segment(bad, std::min<Index>(4, tokens - bad)).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() > 0;
        if (made.causal && i < bad) right = right && std::abs(out(i, e) - without(i, e)) < 1e-12;
        if (seen) right = right && std::isnan(out(i, e));
      }
    }
    CHECK(right);
    // A^T g: tokens behind the bad one take nothing from it.
    if (made.causal) {
      scan_transposed(s, ConstView<double>(x), View<double>(out), serial_executor());
      scan_transposed(s, ConstView<double>(clean), View<double>(without), serial_executor());
      CHECK((out - without).bottomRows(tokens - 1 - bad).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() < 1e-12);
      CHECK(out.row(bad).array().isNaN().all());
    }
    // An activation: columns that the convolution carries to it, in rows from it on.
    Matrix<double> activation = s.activation.matrix();
    activation.row(bad).setConstant(nan);
    s.activation = activation;
    std::vector<Index> all_channels, all_rows;
    for (Index e = 0; e < channels; ++e) all_channels.push_back(e);
    for (Index i = 0; i < tokens; ++i) all_rows.push_back(i);
    Matrix<double> rows(channels * tokens, tokens);
    attention_rows(s, all_channels, all_rows, View<double>(rows), serial_executor());
    Matrix<double> sum(tokens, tokens), absolute(tokens, tokens);
    reduced_rows(s, all_channels, all_rows, View<double>(sum), serial_executor(), detail::Add{}, 0.0);
    reduced_rows(s, all_channels, all_rows, View<double>(absolute), serial_executor(), detail::AddAbsolute{}, 0.0);
    right = true;
    for (Index i = 0; i < tokens; ++i)
      for (Index j = 0; j < tokens; ++j) {
        const bool reaches = j <= bad && bad < j + 4 && (!made.causal || bad <= i);
        // Where no path leads from the row to the bad token, it does not matter; a window's zeros are such.
        const bool seen = reaches && std::abs(made.heads[0](i, bad)) > 0;
        for (Index e = 0; e < made.matrix.head_channels(); ++e) {
          if (seen) right = right && std::isnan(rows(e * tokens + i, j));
          if (!reaches) right = right && std::isfinite(rows(e * tokens + i, j));
        }
        if (!reaches) right = right && std::isfinite(sum(i, j)) && std::isfinite(absolute(i, j));
        if (seen) right = right && std::isnan(sum(i, j)) && std::isnan(absolute(i, j));
      }
    CHECK(right);
  }
}
