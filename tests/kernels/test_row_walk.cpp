// The walk backwards from one row: its pieces, one after the other, are the plain row.
#include <algorithm>
#include <cmath>
#include <vector>

#include <kernels/diagonal_cases.hpp>
#include <support/catch.hpp>

#include <implicit_attention/kernels/plain.hpp>
#include <implicit_attention/kernels/row_walk.hpp>

using namespace implicit_attention;

TEMPLATE_TEST_CASE("the pieces of a row follow each other from its diagonal to token 0, and are the plain row", "[kernels]", double,
                   float) {
  using Scalar = TestType;
  const Index tokens = 300, channels = 41;
  for (const unsigned parts : {0x7d3fu, 0x7d7fu, 0x5d3fu, 0x7ffeu, 0x000fu})  // with documents, without scales; quick forgetting
    for (const Index taps : {1, 4, 6}) {
      const diagonal_cases::Kind<Scalar> kind = diagonal_cases::random_kind<Scalar>(tokens, channels, 3, taps, parts, 61);
      INFO(kind.text);
      const detail::ChannelGroups groups(channel_runs(channels));
      for (const Index row : {Index(0), Index(63), Index(64), Index(69), Index(71), Index(299)}) {
        std::vector<Index> next(static_cast<std::size_t>(channels), row + 1);
        Matrix<Scalar> made = Matrix<Scalar>::Zero(channels, tokens), plain(channels, tokens);
        for (Index group = 0; group < groups.count(); ++group)
          detail::walk_row(kind.surrounded, row, groups, group, [&](const detail::RowPiece<Scalar>& piece) {
            CHECK(piece.begin % detail::tokens_in_a_piece == 0);
            CHECK((piece.begin <= piece.first && piece.first <= piece.end));
            CHECK(piece.all_finite());
            for (Index lane = 0; lane < piece.run.width; ++lane) {
              Index& end = next[static_cast<std::size_t>(piece.run.channel + lane)];
              CHECK(piece.end == end);
              end = piece.begin;
              std::copy_n(piece.entries(lane), piece.end - piece.first, &made(piece.run.channel + lane, piece.first));
            }
          });
        for (Index e = 0; e < channels; ++e) plain_row(kind.surrounded, e, row, &plain(e, 0));
        INFO("row " << row);
        CHECK(std::all_of(next.begin(), next.end(), [](Index end) { return end == 0; }));
        CHECK((made - plain).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>() <=
              (sizeof(Scalar) == 4 ? Scalar(2e-5) : Scalar(1e-13)) * plain.cwiseAbs().template maxCoeff<Eigen::PropagateNaN>());
      }
    }
}

TEST_CASE("a row's walk ends where all states are forgotten", "[kernels]") {
  SurroundedDiagonal<double> surrounded;
  surrounded.recurrence.tokens = 400;
  surrounded.recurrence.channels = 8;
  surrounded.recurrence.state = 2;
  surrounded.recurrence.step = Matrix<double>(Matrix<double>::Constant(400, 8, 1.0));
  Matrix<double> rate(2, 8);
  rate.row(0).setConstant(-30.0);  // below the smallest normal number after 24 tokens
  rate.row(1).setConstant(-10.0);  // after 71
  surrounded.recurrence.rate = rate;
  const detail::ChannelGroups groups(channel_runs(Index(8)));
  Index walked = 0, pieces = 0;
  detail::walk_row(surrounded, 399, groups, 0, [&](const detail::RowPiece<double>& piece) {
    walked += (piece.end - piece.first) * piece.run.width;
    ++pieces;
    if (piece.end < 300) CHECK(piece.first == piece.end);
  });
  CHECK(pieces > 1);
  CHECK(walked >= 72 * 8);
  CHECK(walked <= (72 + 16) * 8);  // states are looked at every 16 tokens
}
