// The decays of a tile of channels at one token.
#include <cmath>
#include <limits>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>

#include <implicit_attention/kernels/channel_groups.hpp>
#include <implicit_attention/kernels/tile_decays.hpp>

namespace {

using namespace implicit_attention;

/// The decays (rows of rates, Width) of a token's steps (Width).
template <int Width, class Scalar>
void set_decays(const detail::TileDecays<Width, Scalar>& decays, Index rows, const Scalar* step, Scalar* to) {
  using Tile = detail::TileDecays<Width, Scalar>;
  for (Index n = 0; n < rows; ++n)
    for (int r = 0; r < Tile::registers; ++r)
      Tile::Register::store(to + n * Width + r * Tile::lane, decays.at(n, r, Tile::Register::load(step + r * Tile::lane)));
}

/// The largest error of a tile's decays, of `states` rates a channel, or none (0).
template <int Width, class Scalar>
double worst_tile_decay(Index states, Index channel) {
  test_support::Draw draw(static_cast<std::uint64_t>(states + channel + 1));
  const Index channels = channel + Width + 2, rows = std::max<Index>(states, 1);
  Array<Scalar> rate;
  if (states > 0) rate = draw.uniforms<Scalar>(states, channels, -2, 0);
  const Matrix<Scalar> step = draw.uniforms<Scalar>(1, Width, states > 0 ? 0 : -2, states > 0 ? 2 : 0);
  const detail::TileDecays<Width, Scalar> decays(rate, channel);
  std::vector<Scalar> found(static_cast<std::size_t>(rows * Width + 1), Scalar(7));
  set_decays(decays, rows, step.data(), found.data());
  double worst = found.back() == Scalar(7) ? 0 : 1;  // behind the tile nothing is written
  for (Index n = 0; n < rows; ++n)
    for (Index c = 0; c < Width; ++c) {
      const double r = rate.empty() ? 1.0 : static_cast<double>(rate(n, channel + c));
      worst = larger(worst, std::abs(static_cast<double>(decays.rate()[n * Width + c]) - r));
      const double expected = std::exp(r * static_cast<double>(step(0, c)));
      worst = larger(worst, std::abs(static_cast<double>(found[static_cast<std::size_t>(n * Width + c)]) - expected));
    }
  return worst;
}

}  // namespace

TEMPLATE_TEST_CASE("a tile's decays are exponentials of rate times step, for tiles of every width", "[kernels]", double, float) {
  const double few = 8 * static_cast<double>(std::numeric_limits<TestType>::epsilon());
  for (const Index states : {0, 1, 3, 16})
    for (const Index channel : {0, 5}) {
      INFO(states << " rates a channel, from channel " << channel << " on");
      CHECK(worst_tile_decay<1, TestType>(states, channel) <= few);
      CHECK(worst_tile_decay<detail::narrow_tile, TestType>(states, channel) <= few);
      CHECK(worst_tile_decay<detail::wide_tile, TestType>(states, channel) <= few);
    }
}

TEMPLATE_TEST_CASE("an infinite step is a decay of zero of its channel alone, NaN spoils no other", "[kernels]", double, float) {
  constexpr int width = detail::narrow_tile;
  const Matrix<TestType> rate = Matrix<TestType>::Constant(2, width, TestType(-0.5));
  const detail::TileDecays<width, TestType> decays(Array<TestType>::view(rate), 0);
  std::vector<TestType> step(width, TestType(0)), found(2 * width);
  step[1] = std::numeric_limits<TestType>::infinity();
  step[6] = std::numeric_limits<TestType>::quiet_NaN();
  set_decays(decays, Index(2), step.data(), found.data());
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (i % width == 6)
      CHECK(std::isnan(found[i]));
    else
      CHECK(found[i] == (i % width == 1 ? TestType(0) : TestType(1)));
  }
}
