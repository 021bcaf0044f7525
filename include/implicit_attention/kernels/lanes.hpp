// Tiles of neighbouring channels that are computed together: fixed widths, so that Eigen vectorises without a remainder loop.
#pragma once

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/types.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// `Width` neighbouring channels.
template <class Scalar, int Width>
using Lanes = Eigen::Array<Scalar, 1, Width, Eigen::RowMajor>;

/// One row of `Width` channels for each state (or tap, or token); contiguous.
template <class Scalar, int Width>
using LaneRows = Eigen::Array<Scalar, Eigen::Dynamic, Width, Width == 1 ? Eigen::ColMajor : Eigen::RowMajor>;

template <int Width, class Scalar>
[[nodiscard]] Eigen::Map<const Lanes<Scalar, Width>> lanes(const Scalar* numbers) {
  return Eigen::Map<const Lanes<Scalar, Width>>(numbers);
}
template <int Width, class Scalar>
[[nodiscard]] Eigen::Map<Lanes<Scalar, Width>> lanes(Scalar* numbers) {
  return Eigen::Map<Lanes<Scalar, Width>>(numbers);
}

/// Cuts `channels` into tiles of IMPLICIT_ATTENTION_TILE_CHANNELS, the rest into 16, 4 and 1, and calls
/// `body.template operator()<Width>(first_channel)` for each through the executor.
template <class Body>
void for_channel_tiles(Index channels, const Executor& executor, const Body& body) {
  constexpr int wide = IMPLICIT_ATTENTION_TILE_CHANNELS;
  static_assert(wide >= 16 && wide % 16 == 0, "IMPLICIT_ATTENTION_TILE_CHANNELS is a multiple of 16");
  const Index whole = channels / wide;
  Index done = whole * wide;
  const Index sixteens = (channels - done) / 16, fours = (channels - done) % 16 / 4, ones = (channels - done) % 4;
  executor(whole + sixteens + fours + ones, [&](Index tile) {
    if (tile < whole) return body.template operator()<wide>(tile * wide);
    const Index rest = tile - whole;
    if (rest < sixteens) return body.template operator()<16>(done + rest * 16);
    if (rest < sixteens + fours) return body.template operator()<4>(done + sixteens * 16 + (rest - sixteens) * 4);
    body.template operator()<1>(done + sixteens * 16 + fours * 4 + (rest - sixteens - fours));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
