// Tiles of neighbouring channels that are computed together: fixed widths, so that Eigen vectorises without a remainder loop.
#pragma once

#include <cstddef>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/types.hpp>

/// Everything that the function calls becomes a part of it. Compilers leave Eigen's assignments out of long functions as functions of
/// their own; the tile is then in memory between them, and the processor, which sees all arrays' reads at one place, cannot foresee them:
/// a scan took up to three times as long. Not where nothing is optimised or everything is instrumented: that would take minutes to compile.
#if defined(__GNUC__) && defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
#define IMPLICIT_ATTENTION_FLATTEN __attribute__((flatten))
#else
#define IMPLICIT_ATTENTION_FLATTEN
#endif

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

/// Tokens by which walks over tokens ask for what they read ahead of reading it. A tile reads a few cache lines of each array a token,
/// which stand too far apart for the processor to foresee all of them: about a tenth of a scan's time (65,536 tokens, 1536 channels).
constexpr Index tokens_ahead = 6;

/// Asks for `Width` numbers that will be read.
template <int Width, class Scalar>
EIGEN_ALWAYS_INLINE void prefetch([[maybe_unused]] const Scalar* numbers) {
#if defined(__GNUC__)
  constexpr int line = 64 / static_cast<int>(sizeof(Scalar));
  for (int i = 0; i < Width; i += line) __builtin_prefetch(numbers + i, 0, 2);
  __builtin_prefetch(numbers + (Width - 1), 0, 2);  // where a tile straddles lines
#endif
}

/// The same of a row of an array that may be empty, or end before it.
template <int Width, class Scalar>
EIGEN_ALWAYS_INLINE void prefetch(const Array<Scalar>& array, Index row, Index column) {
  if (row >= 0 && row < array.rows()) prefetch<Width>(array.row(row) + column);
}

/// `Width` neighbouring columns of an array as rows of their own, contiguous: the rows of the array may all fall into the same cache set.
template <int Width, class Scalar>
[[nodiscard]] LaneRows<Scalar, Width> lane_rows(const Array<Scalar>& array, Index column) {
  LaneRows<Scalar, Width> rows(array.rows(), Width);
  for (Index i = 0; i < array.rows(); ++i) rows.row(i) = lanes<Width>(array.row(i) + column);
  return rows;
}

/// The smallest power of two that is no less than `count`: a ring of that many places is indexed by a mask, not by a division.
[[nodiscard]] constexpr Index ring_size(Index count) {
  Index size = 1;
  while (size < count) size *= 2;
  return size;
}

/// Cuts `channels` into tiles of IMPLICIT_ATTENTION_TILE_CHANNELS, the rest into 8 and 1, and calls
/// `body.template operator()<Width>(first_channel)` for each through the executor.
template <class Body>
void for_channel_tiles(Index channels, const Executor& executor, const Body& body) {
  constexpr int wide = IMPLICIT_ATTENTION_TILE_CHANNELS, narrow = 8;
  static_assert(wide >= narrow && wide % narrow == 0, "IMPLICIT_ATTENTION_TILE_CHANNELS is a multiple of 8");
  const Index whole = channels / wide, eights = channels % wide / narrow, ones = channels % narrow;
  executor(whole + eights + ones, [&](Index tile) {
    if (tile < whole) return body.template operator()<wide>(tile * wide);
    const Index rest = tile - whole;
    if (rest < eights) return body.template operator()<narrow>(whole * wide + rest * narrow);
    body.template operator()<1>(whole * wide + eights * narrow + (rest - eights));
  });
}

/// Neighbouring channels in a list of channels.
struct ChannelRun {
  Index channel, place;  ///< the first of them, and where it stands in the list
  int width;
};

/// Cuts a list of channels into runs of IMPLICIT_ATTENTION_TILE_CHANNELS, 8 or 1.
[[nodiscard]] inline std::vector<ChannelRun> channel_runs(const std::vector<Index>& channels) {
  std::vector<ChannelRun> runs;
  const Index count = static_cast<Index>(channels.size());
  for (Index place = 0; place < count; place += runs.back().width) {
    const Index first = channels[static_cast<std::size_t>(place)];
    const auto neighbours = [&](int width) {
      if (place + width > count) return false;
      for (Index i = 1; i < width; ++i)
        if (channels[static_cast<std::size_t>(place + i)] != first + i) return false;
      return true;
    };
    const int width = neighbours(IMPLICIT_ATTENTION_TILE_CHANNELS) ? IMPLICIT_ATTENTION_TILE_CHANNELS : neighbours(8) ? 8 : 1;
    runs.push_back({first, place, width});
  }
  return runs;
}

/// Calls `body.template operator()<Width>()` with a run's width.
template <class Body>
void with_width_of(const ChannelRun& run, const Body& body) {
  if (run.width == IMPLICIT_ATTENTION_TILE_CHANNELS) return body.template operator()<IMPLICIT_ATTENTION_TILE_CHANNELS>();
  if (run.width == 8) return body.template operator()<8>();
  body.template operator()<1>();
}

IMPLICIT_ATTENTION_NAMESPACE_END
