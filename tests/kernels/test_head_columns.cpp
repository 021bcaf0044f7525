// What stands right of a head's matrix: factors of columns, what rows see, and channels by their heads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <support/catch.hpp>

#include <implicit_attention/kernels/head_columns.hpp>

#include "matrix_cases.hpp"

namespace {

using namespace matrix_cases;

}  // namespace

TEST_CASE("a column's factors are a tap times an activation times the column's weight, zero beyond tokens and documents") {
  const Index tokens = 37, width = 3;
  SurroundedCase<double> made(MatrixKind::diagonal, tokens, 0b0111111u, width, 4);
  const Surrounded<SharedMatrix<double>>& s = made.surrounded;
  REQUIRE(!s.convolution_starts.empty());
  for (const bool together : {false, true}) {
    detail::HeadColumns<double> columns(s, 24, together);
    const std::vector<Index> channels{7, 5, 6};  // of one head, not in order
    columns.choose(channels);
    double worst = 0;
    for (const Index begin : {0, 16}) {
      const Index end = std::min(begin + 24, tokens);
      columns.prepare(begin, end);
      CHECK(columns.finite());
      for (Index c = 0; c < columns.count(); ++c)
        for (Index d = 0; d < width; ++d)
          for (Index j = begin; j < end; ++j) {
            const Index channel = channels[static_cast<std::size_t>(c)];
            const bool reaches = j + d < tokens && s.last_reached(j) >= j + d;
            const double expected =
                reaches ? s.taps(width - 1 - d, channel) * s.activation(j + d, channel) * s.column_weights(j, channel) : 0.0;
            worst = larger(worst, std::abs(*columns.factor(c, d, j - begin) - expected));
          }
    }
    CHECK(worst < 1e-15);
    Matrix<double> scales;
    columns.scales(3, 9, scales);
    REQUIRE(scales.rows() == 6);
    for (Index i = 3; i < 9; ++i)
      for (Index c = 0; c < 3; ++c) CHECK(scales(i - 3, c) == s.gate(i, channels[static_cast<std::size_t>(c)]));
  }
}

TEST_CASE("a run's columns begin where its first row's convolution reaches back to, in whole registers, and end with its last row") {
  HeadRecurrence<double> r = make<double>(Plan{.tokens = 60});
  r.starts = {20};
  const SharedMatrix<double> matrix(r);
  detail::SeenTokens seen;
  seen.look_up(matrix, detail::RowRun{30, 33, 0}, 4, 8);
  CHECK(seen.rows.size() == 3);
  CHECK(seen[0].first == 20);
  CHECK(seen[2].last == 32);
  CHECK(seen.begin == 16);  // 20 - 3, down to a multiple of 8
  CHECK(seen.end == 33);
  seen.look_up(matrix, detail::RowRun{1, 2, 0}, 4, 8);
  CHECK(seen.begin == 0);
  CHECK(seen.end == 2);
}

TEST_CASE("channels are taken by their heads, with their places in the caller's list") {
  Plan plan;
  plan.heads = 3;
  plan.values = 2;
  const detail::ChannelsByHead chosen(make<double>(plan), {5, 0, 1, 0});
  CHECK(chosen.heads == std::vector<Index>{0, 2});
  CHECK(chosen.channels[0] == std::vector<Index>{0, 1, 0});
  CHECK(chosen.places[0] == std::vector<Index>{1, 2, 3});
  CHECK(chosen.places[2] == std::vector<Index>{0});
}

TEST_CASE("columns that are not finite count from the first one that chosen rows of chosen channels read") {
  SurroundedCase<double> made(MatrixKind::diagonal, 40, 0b0001100u, 4, 3);
  Surrounded<SharedMatrix<double>>& s = made.surrounded;
  Matrix<double> activation = s.activation.matrix();
  activation(30, 2) = std::numeric_limits<double>::quiet_NaN();
  s.activation = activation;
  CHECK(detail::FiniteColumns<double>(s, {1, 2, 3}, {39}).first == 30);
  CHECK(detail::FiniteColumns<double>(s, {3, 4}, {39}).first == 40);     // other channels
  CHECK(detail::FiniteColumns<double>(s, {1, 2, 3}, {20}).first == 40);  // a row before it
  CHECK(detail::FiniteColumns<double>(s, {2}, {39}).part.activation(30, 2) == 0);
}
