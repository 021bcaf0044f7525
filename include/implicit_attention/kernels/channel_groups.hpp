// How channels are shared out: tiles that are computed together, and groups of tiles that go through the tokens together.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Neighbouring channels in a list of channels.
struct ChannelRun {
  Index channel, place;  ///< the first of them, and where it stands in the list
  int width;
};

namespace detail {

constexpr int wide_tile = IMPLICIT_ATTENTION_TILE_CHANNELS, narrow_tile = 8;
static_assert(wide_tile >= narrow_tile && wide_tile % narrow_tile == 0, "IMPLICIT_ATTENTION_TILE_CHANNELS is a multiple of 8");

/// The widest tile that so many neighbouring channels fill.
[[nodiscard]] constexpr int tile_width(Index neighbours) {
  return neighbours >= wide_tile ? wide_tile : neighbours >= narrow_tile ? narrow_tile : 1;
}

}  // namespace detail

/// Cuts a list of channels into runs of IMPLICIT_ATTENTION_TILE_CHANNELS, 8 or 1.
template <class = void>
[[nodiscard]] std::vector<ChannelRun> channel_runs(const std::vector<Index>& channels) {
  std::vector<ChannelRun> runs;
  const Index count = static_cast<Index>(channels.size());
  for (Index place = 0; place < count; place += runs.back().width) {
    const Index first = channels[static_cast<std::size_t>(place)];
    Index neighbours = 1;
    while (neighbours < detail::wide_tile && place + neighbours < count &&
           channels[static_cast<std::size_t>(place + neighbours)] == first + neighbours)
      ++neighbours;
    runs.push_back({first, place, detail::tile_width(neighbours)});
  }
  return runs;
}

/// The same for all of `channels` channels.
template <class = void>
[[nodiscard]] std::vector<ChannelRun> channel_runs(Index channels) {
  std::vector<ChannelRun> runs;
  for (Index channel = 0; channel < channels; channel += runs.back().width)
    runs.push_back({channel, channel, detail::tile_width(channels - channel)});
  return runs;
}

/// Calls `body.template operator()<Width>(first_channel, tile)` for tiles of all channels through the executor.
template <class Body>
void for_channel_tiles(Index channels, const Executor& executor, const Body& body) {
  const std::vector<ChannelRun> runs = channel_runs(channels);
  detail::run_loop(executor, static_cast<Index>(runs.size()), [&](Index index) {
    const ChannelRun& run = runs[static_cast<std::size_t>(index)];
    if (run.width == detail::wide_tile) return body.template operator()<detail::wide_tile>(run.channel, index);
    if (run.width == detail::narrow_tile) return body.template operator()<detail::narrow_tile>(run.channel, index);
    body.template operator()<1>(run.channel, index);
  });
}

namespace detail {

/// Tokens that a tile goes through before the next tile of its group takes over.
constexpr Index tokens_in_a_run = 8;

/// Calls body(begin, end) for one run of tokens after the other, the last of which may be shorter.
template <class Body>
void for_token_runs(Index tokens, const Body& body) {
  for (Index begin = 0; begin < tokens; begin += tokens_in_a_run) body(begin, std::min(begin + tokens_in_a_run, tokens));
}

/// Room for a known number of tiles, each constructed in place. A std::vector would instantiate its growth code for every kind of tile.
template <class Tile>
class TileList {
 public:
  explicit TileList(std::size_t room) : room_(room), tiles_(room == 0 ? nullptr : std::allocator<Tile>().allocate(room)) {}
  TileList(const TileList&) = delete;
  TileList& operator=(const TileList&) = delete;
  ~TileList() {
    for (Tile& tile : *this) tile.~Tile();
    if (tiles_ != nullptr) std::allocator<Tile>().deallocate(tiles_, room_);
  }

  template <class Make>
  void add(const Make& make) {
    ::new (static_cast<void*>(tiles_ + count_)) Tile(make());
    ++count_;
  }
  [[nodiscard]] Tile* begin() { return tiles_; }
  [[nodiscard]] Tile* end() { return tiles_ + count_; }

 private:
  std::size_t room_;
  Tile* tiles_;
  std::size_t count_ = 0;
};

/// Tiles that advance through the tokens together, a few tokens of each at a time. A single tile reads 128 bytes of every array's row, and
/// rows are pages apart: every read then needs a page lookup of its own, and the hardware prefetcher does not help. Side by side, tiles
/// read long contiguous pieces of each row (an application of 65,536 tokens and 1536 channels: 0.65 s instead of 0.8 s).
template <class Make>
class ChannelTiles {
 public:
  /// Makes a tile, `make.template operator()<Width>(run)`, of each run in first..last-1.
  ChannelTiles(const ChannelRun* first, const ChannelRun* last, const Make& make)
      : wide_(count(first, last, wide_tile)),
        narrow_(wide_tile == narrow_tile ? 0 : count(first, last, narrow_tile)),
        single_(count(first, last, 1)) {
    for (; first != last; ++first) {
      if (first->width == wide_tile)
        wide_.add([&] { return make.template operator()<wide_tile>(*first); });
      else if (first->width == narrow_tile)
        narrow_.add([&] { return make.template operator()<narrow_tile>(*first); });
      else
        single_.add([&] { return make.template operator()<1>(*first); });
    }
  }

  template <class Body>
  void each(const Body& body) {
    for (auto& tile : wide_) body(tile);
    for (auto& tile : narrow_) body(tile);
    for (auto& tile : single_) body(tile);
  }

 private:
  template <int Width>
  using Tile = decltype(std::declval<const Make&>().template operator()<Width>(std::declval<const ChannelRun&>()));

  [[nodiscard]] static std::size_t count(const ChannelRun* first, const ChannelRun* last, int width) {
    return static_cast<std::size_t>(std::count_if(first, last, [&](const ChannelRun& run) { return run.width == width; }));
  }

  TileList<Tile<wide_tile>> wide_;
  TileList<Tile<narrow_tile>> narrow_;
  TileList<Tile<1>> single_;
};

/// Runs of channels in groups, each processed independently: about eight groups for workers to share, more where there are many channels.
class ChannelGroups {
 public:
  template <class = void>
  explicit ChannelGroups(std::vector<ChannelRun> runs) : runs_(std::move(runs)) {
    Index channels = 0, together = 0;
    for (const ChannelRun& run : runs_) channels += run.width;
    const auto round_up = [](Index count, Index to) { return (count + to - 1) / to * to; };
    // Long, aligned pieces of a row are read faster than short, unaligned ones (1536 channels, 65,536 tokens, transposed: 0.59 s in
    // groups of 256, 0.65 s in groups of 192); the working set of a group has to fit the second-level cache.
    const Index eighth = round_up((channels + 7) / 8, wide_tile),
                most = eighth < 128 ? eighth : std::min<Index>(round_up(eighth, 256), 512);
    for (std::size_t index = 0; index < runs_.size(); ++index) {
      if (index == 0 || together + runs_[index].width > most) {
        firsts_.push_back(static_cast<Index>(index));
        together = 0;
      }
      together += runs_[index].width;
    }
    firsts_.push_back(static_cast<Index>(runs_.size()));
  }

  [[nodiscard]] Index count() const { return static_cast<Index>(firsts_.size()) - 1; }

  /// The tiles of a group.
  template <class Make>
  [[nodiscard]] ChannelTiles<Make> tiles(Index group, const Make& make) const {
    const std::size_t index = static_cast<std::size_t>(group);
    return ChannelTiles<Make>(runs_.data() + firsts_[index], runs_.data() + firsts_[index + 1], make);
  }

 private:
  std::vector<ChannelRun> runs_;
  std::vector<Index> firsts_;  // of every group, and where the last one ends
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
