// States at the beginnings of blocks, against the equation token by token.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <kernels/diagonal_cases.hpp>
#include <support/catch.hpp>

#include <implicit_attention/kernels/state_checkpoints.hpp>

namespace {

using namespace implicit_attention;

/// The largest error of the states of `Width` channels at the beginnings of blocks.
template <int Width, class Scalar>
double worst_checkpoint(const DiagonalRecurrence<Scalar>& r, const Matrix<Scalar>& input, const Matrix<Scalar>& initial, Index block,
                        Index channel) {
  detail::ScanGradientScratch<Scalar> scratch(r);
  detail::StateCheckpoints<Width, Scalar> checkpoints(r, ConstView<Scalar>(input), Array<Scalar>::view(initial), block, channel);
  checkpoints.walk_forwards(scratch);
  const auto at = [](const Array<Scalar>& array, Index i, Index j) { return array.empty() ? 1.0 : static_cast<double>(array(i, j)); };
  double worst = 0;
  for (Index c = 0; c < Width; ++c) {
    const Index e = channel + c;
    for (Index n = 0; n < r.state; ++n) {
      double state = initial.size() == 0 ? 0.0 : static_cast<double>(initial(n, e));
      for (Index t = 0; t < r.tokens; ++t) {
        if (t % block == 0) worst = larger(worst, std::abs(static_cast<double>(checkpoints.at(t)[n * Width + c]) - state));
        if (std::find(r.starts.begin(), r.starts.end(), t) != r.starts.end()) state = 0;
        state = std::exp(at(r.rate, n, e) * static_cast<double>(r.step(t, e))) * state +
                at(r.key, t, n) * at(r.key_scale, t, e) * static_cast<double>(input(t, e));
      }
    }
  }
  return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("the states at the beginnings of blocks are those of the equation, also where a document begins", "[kernels]", double,
                   float) {
  using Scalar = TestType;
  const Index tokens = 77, channels = detail::wide_tile + 5;
  const double few = 300 * static_cast<double>(std::numeric_limits<Scalar>::epsilon());
  for (const unsigned parts : {0x0ffu, 0x07fu, 0x001u, 0x0b5u})  // everything, one document, steps alone, documents and no rates
    for (const Index state : {1, 5})
      for (const bool carried : {false, true})
        for (const Index block : {1, 8, 32, 77, 200}) {
          const diagonal_cases::Kind<Scalar> kind = diagonal_cases::random_kind<Scalar>(tokens, channels, state, 1, parts, 71);
          test_support::Draw draw(72);
          const Matrix<Scalar> input = draw.normals<Scalar>(tokens, channels);
          Matrix<Scalar> initial;
          if (carried) initial = draw.normals<Scalar>(state, channels);
          INFO(kind.text << ", blocks of " << block << (carried ? ", with a state" : ""));
          const DiagonalRecurrence<Scalar>& r = kind.surrounded.recurrence;
          CHECK(worst_checkpoint<1>(r, input, initial, block, 4) <= few);
          CHECK(worst_checkpoint<detail::narrow_tile>(r, input, initial, block, 3) <= few);
          CHECK(worst_checkpoint<detail::wide_tile>(r, input, initial, block, 5) <= few);
        }
}

TEST_CASE("nothing decays into a document's first token whatever its step holds, and what is not there is ones", "[kernels]") {
  constexpr int width = detail::narrow_tile;
  DiagonalRecurrence<double> r;
  r.tokens = 4;
  r.channels = width;
  Matrix<double> step = Matrix<double>::Zero(4, width);
  step.row(2).setConstant(std::numeric_limits<double>::quiet_NaN());
  r.step = step;
  r.starts = {2};
  const Matrix<double> input = Matrix<double>::Constant(4, width, 3);
  detail::ScanGradientScratch<double> scratch(r);
  detail::StateCheckpoints<width, double> checkpoints(r, ConstView<double>(input), Array<double>(), 1, 0);
  checkpoints.walk_forwards(scratch);
  for (Index c = 0; c < width; ++c) CHECK((checkpoints.at(2)[c] == 6 && checkpoints.at(3)[c] == 3));
  const detail::TokenParts<double> parts = checkpoints.parts(3, scratch);
  CHECK((*parts.query == 1 && *parts.key == 1));
  for (Index c = 0; c < width; ++c) CHECK((parts.key_scale[c] == 1 && parts.query_scale[c] == 1 && parts.input[c] == 3));
}

TEST_CASE("a short text is kept as one block, a longer one by blocks of tokens", "[kernels]") {
  using Scratch = detail::ScanGradientScratch<double>;
  CHECK(Scratch::block_of(0, 16) == 1);
  CHECK(Scratch::block_of(512, 16) == 512);
  CHECK(Scratch::block_of(513, 16) == IMPLICIT_ATTENTION_BLOCK_TOKENS);
  CHECK(Scratch::block_of(8192, 1) == 8192);
  CHECK(Scratch::block_of(2, 8193) == IMPLICIT_ATTENTION_BLOCK_TOKENS);
}

TEST_CASE("a state that is not finite ends with its document", "[kernels]") {
  constexpr int width = detail::narrow_tile;
  const diagonal_cases::Kind<double> kind = diagonal_cases::random_kind<double>(32, width, 3, 1, 0x0ffu, 73);  // documents from 3 and 4 on
  Matrix<double> input = test_support::Draw(74).normals<double>(32, width), spoilt = input;
  spoilt.row(2).setConstant(std::numeric_limits<double>::quiet_NaN());
  const DiagonalRecurrence<double>& r = kind.surrounded.recurrence;
  detail::ScanGradientScratch<double> scratch(r);
  detail::StateCheckpoints<width, double> clean(r, ConstView<double>(input), Array<double>(), 3, 0),
      other(r, ConstView<double>(spoilt), Array<double>(), 3, 0);
  clean.walk_forwards(scratch);
  other.walk_forwards(scratch);
  for (Index i = 0; i < r.state * width; ++i) {
    CHECK(std::isnan(other.at(3)[i]));
    CHECK(other.at(6)[i] == clean.at(6)[i]);
  }
}
