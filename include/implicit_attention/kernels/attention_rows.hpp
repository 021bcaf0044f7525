// Rows of attention matrices of chosen channels.
//
// Many rows of a block are computed from factors, single rows by the walk backwards from the row; both are linear in what they write.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include <implicit_attention/kernels/channel_tile.hpp>
#include <implicit_attention/kernels/plain.hpp>
#include <implicit_attention/kernels/row_walk.hpp>
#include <implicit_attention/kernels/row_writer.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Fewer rows of a block than this are walked one by one.
constexpr Index rows_worth_a_block = 4;

/// The wanted rows (places in the caller's list) of each block that is worth computing whole, and the rest.
struct RowsByBlock {
  std::vector<std::vector<Index>> places;  ///< of every block; empty where none is wanted, or too few
  std::vector<Index> single;
  bool any_block = false;

  template <Real Scalar>
  RowsByBlock(const BlockPlan<Scalar>& plan, const std::vector<Index>& rows) : places(plan.blocks().size()) {
    for (std::size_t place = 0; place < rows.size(); ++place)
      places[static_cast<std::size_t>(plan.block_of(rows[place]))].push_back(static_cast<Index>(place));
    for (std::size_t index = 0; index < places.size(); ++index) {
      const Index count = static_cast<Index>(places[index].size());
      if (count == 0) continue;
      if (count >= std::min(rows_worth_a_block, plan.blocks()[index].tokens)) {
        any_block = true;
        continue;
      }
      single.insert(single.end(), places[index].begin(), places[index].end());
      places[index].clear();
    }
  }

  [[nodiscard]] bool wanted(Index block) const { return !places[static_cast<std::size_t>(block)].empty(); }

  /// 1 for each block that is wanted, or a later one of whose document is: its keys are needed then; 0 for the others.
  template <Real Scalar>
  [[nodiscard]] std::vector<Index> needed(const BlockPlan<Scalar>& plan) const {
    std::vector<Index> needed(places.size(), 0);
    for (std::size_t index = places.size(); index-- > 0;) {
      const bool later =
          index + 1 < places.size() && needed[index + 1] != 0 && plan.blocks()[index + 1].document == plan.blocks()[index].document;
      if (later || !places[index].empty()) needed[index] = 1;
    }
    return needed;
  }
};

/// How far back the rows of a block see, for a register of channels, and the decay over the blocks in between.
template <Real Scalar>
class BlockDecays {
 public:
  static constexpr int width = register_lanes<Scalar>;
  using Lane = Lanes<Scalar, width>;

  BlockDecays(Index blocks, Index state) : state_(state), between_(blocks * state * width) {}

  /// For the rows of block `index`; `steps(block)` is the sum of a block's steps.
  template <class Steps>
  void compute(const ChannelTile<Scalar>& tile, const TokenBlock& block, Index index, const Steps& steps) {
    const Scalar smallest = std::log(std::numeric_limits<Scalar>::min());
    oldest_.fill(index);
    Lane elapsed = Lane::Zero();
    for (Index older = index - 1; older >= block.document; --older) {
      Lane slowest = tile.rate(0) * elapsed;
      for (Index n = 1; n < state_; ++n) slowest = slowest.max(tile.rate(n) * elapsed);
      bool seen = false;
      for (Index c = 0; c < width; ++c)
        if (!(slowest[c] < smallest) && oldest_[static_cast<std::size_t>(c)] == older + 1) {
          oldest_[static_cast<std::size_t>(c)] = older;
          seen = true;
        }
      if (!seen) break;
      for (Index n = 0; n < state_; ++n) lanes<width>(between_.data() + place(older, n)) = (tile.rate(n) * elapsed).exp();
      elapsed += steps(older);
    }
  }

  /// The oldest block with anything above the smallest normal number in it, or with a decay that is NaN between; the block itself where
  /// there is none.
  [[nodiscard]] Index oldest(Index channel) const { return oldest_[static_cast<std::size_t>(channel)]; }
  /// exp(rate (steps from the end of `older` to the start of the rows' block)) of a channel, (state), register_lanes apart.
  [[nodiscard]] const Scalar* between(Index channel, Index older) const { return between_.data() + place(older, 0) + channel; }

 private:
  [[nodiscard]] Index place(Index block, Index n) const { return (block * state_ + n) * width; }
  Index state_;
  RowVector<Scalar> between_;
  std::array<Index, static_cast<std::size_t>(width)> oldest_{};
};

/// Blocks of columns that fit the nearest cache beside their factors.
constexpr Index blocks_in_a_piece = std::max<Index>(1, 512 / IMPLICIT_ATTENTION_BLOCK_TOKENS);

/// Rows of one register of channels, block after block.
template <Real Scalar>
class TileRows {
 public:
  static constexpr int width = register_lanes<Scalar>;

  explicit TileRows(const BlockPlan<Scalar>& plan)
      : plan_(&plan),
        state_(plan.surrounded().recurrence.state),
        blocks_(static_cast<Index>(plan.blocks().size())),
        tile_(plan),
        factors_(blocks_, 1, width, state_, false),
        decays_between_(blocks_, state_),
        steps_(blocks_),
        near_stride_(tile_.entry_stride()),
        near_channel_(block_strips * strip_tokens * near_stride_ + width),
        near_(width * near_channel_),
        piece_stride_((blocks_in_a_piece + 1) * IMPLICIT_ATTENTION_BLOCK_TOKENS + near_stride_ + RowWriter<Scalar>::line),
        piece_(strip_tokens * piece_stride_),
        queries_(state_ * strip_tokens) {
    for (RowVector<Scalar>* const numbers : {&near_, &piece_}) std::fill_n(numbers->data(), numbers->size(), Scalar(0));
  }

  /// The wanted blocks' rows of `count` channels; row i of block b goes to target(c, b, i), nowhere where that is null.
  template <class Target>
  void run(const Index* channels, Index count, const std::vector<Index>& needed, const RowsByBlock& rows, const RowWriter<Scalar>& writer,
           const Target& target) {
    tile_.load(channels, count);
    for (Index index = 0; index < blocks_; ++index) {
      if (needed[static_cast<std::size_t>(index)] == 0) continue;
      load(index, rows.wanted(index));
      for (Index c = 0; c < count; ++c)
        for (Index strip = 0; strip < plan_->block(index).strips(); ++strip) {
          if (rows.wanted(index)) write_strip(c, index, strip, writer, [&](Index r) { return target(c, index, strip * strip_tokens + r); });
          factors_.join_strips(c, 1, index, 0, strip);
        }
    }
    writer.finish();
  }

 private:
  void load(Index index, bool wanted) {
    const TokenBlock& block = plan_->block(index);
    LanesAt<Scalar, width> steps = steps_.row(index);
    steps.setZero();
    for (Index strip = 0; strip < block.strips(); ++strip) {
      tile_.compute(block.first + strip * strip_tokens, std::min(strip_tokens, block.tokens - strip * strip_tokens), block.document_first);
      steps += tile_.steps();
      tile_.store(factors_, 0, index, strip, strip, wanted);
      if (!wanted) continue;
      transpose<width>(tile_.entries(), width, strip_tokens * near_stride_, [&](Index c) { return near_row(c, strip, 0); });
    }
    if (wanted) decays_between_.compute(tile_, block, index, [&](Index older) { return steps_.row(older); });
  }

  [[nodiscard]] Scalar* near_row(Index channel, Index strip, Index row) {
    return near_.data() + channel * near_channel_ + (strip * strip_tokens + row) * near_stride_;
  }

  /// A strip's rows from right to left: near and earlier strips, then earlier blocks, a cacheful of columns at a time. Memory takes rows
  /// that are written from end to end at its full rate, and rows that are written side by side at half of it: so they are made in a piece
  /// of cache and go out one after the other.
  template <class Target>
  void write_strip(Index c, Index index, Index strip, const RowWriter<Scalar>& writer, const Target& target) {
    const TokenBlock& block = plan_->block(index);
    const Index tokens = plan_->surrounded().recurrence.tokens, lead = plan_->lead(), first = block.first + strip * strip_tokens;
    const Index end = std::min(first + strip_tokens, block.end()), oldest = decays_between_.oldest(c);
    const auto column_of = [&](Index earlier) { return plan_->block(earlier).first - lead; };  // a block's first column
    const auto each_wanted = [&](const auto& body) {
      for (Index r = 0; r < end - first; ++r)
        if (Scalar* row = target(r)) body(r, row);
    };

    Index newest = index;  // blocks from here on are done
    Index piece_first = std::max(index - blocks_in_a_piece, oldest);
    const Scalar* from = factors_.queries(c, strip);
    for_earlier_strips(strip, [&](Index earlier, Index count) {
      product(from, factors_.keys(c, index, earlier), count * strip_tokens,
              column_of(index) + earlier * strip_tokens - column_of(piece_first));
      Factors<Scalar>::scale_queries(from, factors_.decays(c, earlier), 1, state_, factors_.queries(c, strip));
    });
    copy_near(c, strip, first - lead - column_of(piece_first));
    Index piece_end = end;
    while (true) {
      for (Index older = piece_first; older < newest; ++older) {
        Factors<Scalar>::scale_queries(from, decays_between_.between(c, older), width, state_, queries_.data());
        product(queries_.data(), factors_.keys(c, older, 0), IMPLICIT_ATTENTION_BLOCK_TOKENS, column_of(older) - column_of(piece_first));
      }
      const Index column = std::max(column_of(piece_first), Index(0));
      each_wanted([&](Index r, Scalar* row) {
        const Index last = piece_end == end ? std::min(end + rest_of_line(row + end), tokens) : piece_end;
        const Scalar* entries = piece_.data() + r * piece_stride_ + column - column_of(piece_first);
        if (piece_end == end) {  // prefetched now, so that the row's last line, which is not streamed, is in the cache when it is written
          writer.ask_for_last(row + tokens);
          if (last == tokens)
            writer.copy_to_end(entries, last - column, row + column);
          else
            writer.copy(entries, last - column, row + column);
          writer.zeros_to_end(tokens - last, row + last);
        } else {
          writer.copy(entries, last - column, row + column);
        }
        if (piece_first == oldest) writer.zeros(column, row);
      });
      if (piece_first == oldest) return;
      piece_end = column_of(piece_first);
      newest = piece_first;
      piece_first = std::max(piece_first - blocks_in_a_piece, oldest);
    }
  }

  void product(const Scalar* queries, const Scalar* keys, Index columns, Index to) {
    each_panel<Scalar>(columns, [&]<int Columns>(Index column) {
      Tile<Scalar, Columns> tile;
      multiply<false, Columns>(queries, keys + column / width * factors_.panel_stride(), state_, tile);
      Scalar* out = piece_.data() + to + column;
      each_row([&](std::size_t r) { lanes<Columns>(out + static_cast<Index>(r) * piece_stride_) = tile[r]; });
    });
  }

  /// A strip's near entries, and zeros to fill the last cache line with.
  void copy_near(Index c, Index strip, Index to) {
    const Index near_stride = near_stride_, stride = piece_stride_;
    const Scalar* from = near_row(c, strip, 0);
    Scalar* row = piece_.data() + to;
    for (Index r = 0; r < strip_tokens; ++r, from += near_stride, row += stride) {
      Index column = 0;
      for (; column < near_stride; column += strip_tokens) lanes<strip_tokens>(row + column) = lanes<strip_tokens>(from + column);
      for (; column < near_stride + RowWriter<Scalar>::line; column += strip_tokens) lanes<strip_tokens>(row + column).setZero();
    }
  }

  const BlockPlan<Scalar>* plan_;
  Index state_, blocks_;
  ChannelTile<Scalar> tile_;
  Factors<Scalar> factors_;
  BlockDecays<Scalar> decays_between_;
  LaneRows<Scalar, width> steps_;  // (blocks): sums of steps
  Index near_stride_;
  Index near_channel_;      // not a power of two: channels that are written side by side share no cache set
  RowVector<Scalar> near_;  // (channels, strips of a block, rows, near columns)
  Index piece_stride_;
  RowVector<Scalar> piece_;    // (rows of a strip, columns)
  RowVector<Scalar> queries_;  // (state, rows of a strip)
};

}  // namespace detail

/// Rows `rows` of the matrices of `channels`, channel after channel, into `out` (channels * rows, tokens).
template <Real Scalar>
void attention_rows(const SurroundedDiagonal<Scalar>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& rows,
                    View<Scalar> out, const Executor& executor) {
  const detail::RowsByBlock wanted(detail::BlockPlan<Scalar>(surrounded), rows);
  const Index row_count = static_cast<Index>(rows.size()), channel_count = static_cast<Index>(channels.size()),
              tokens = surrounded.recurrence.tokens;
  const auto target = [&](Index c, Index place) { return out.data() + (c * row_count + place) * out.outerStride(); };

  if (wanted.any_block) {
    const std::vector<Index> spoilt = detail::first_spoilt_tokens(surrounded, channels);
    const SurroundedDiagonal<Scalar> finite = spoilt.empty() ? surrounded : detail::finite_part(surrounded);
    const detail::BlockPlan<Scalar> plan(finite);
    const std::vector<Index> needed = wanted.needed(plan);
    // Where each row of a block goes, -1 for nowhere; a row that is asked for twice is copied.
    std::vector<Index> places(static_cast<std::size_t>(tokens), -1);
    for (const std::vector<Index>& block : wanted.places)
      for (const Index place : block) places[static_cast<std::size_t>(rows[static_cast<std::size_t>(place)])] = place;
    constexpr Index width = detail::register_lanes<Scalar>;
    const detail::RowWriter<Scalar> writer(out.rows() * out.cols());
    // A task takes several registers of channels, so that its memory is allocated once for them.
    const Index tiles = (channel_count + width - 1) / width, per_task = std::max<Index>(1, tiles / 32);
    detail::run_loop(executor, (tiles + per_task - 1) / per_task, [&](Index task) {
      detail::TileRows<Scalar> tile_rows(plan);
      for (Index tile = task * per_task; tile < std::min((task + 1) * per_task, tiles); ++tile) {
        const Index first = tile * width, count = std::min(width, channel_count - first);
        tile_rows.run(channels.data() + first, count, needed, wanted, writer, [&](Index c, Index block, Index i) -> Scalar* {
          const Index place = places[static_cast<std::size_t>(plan.block(block).first + i)];
          return place < 0 ? nullptr : target(first + c, place);
        });
        for (const std::vector<Index>& block : wanted.places)
          for (const Index place : block) {
            const Index made = places[static_cast<std::size_t>(rows[static_cast<std::size_t>(place)])];
            if (made == place) continue;
            for (Index c = first; c < first + count; ++c) std::copy_n(target(c, made), tokens, target(c, place));
          }
      }
    });
    detail::run_loop(executor, static_cast<Index>(spoilt.size()), [&](Index c) {
      const Index first = spoilt[static_cast<std::size_t>(c)];
      for (const std::vector<Index>& block : wanted.places)
        for (const Index place : block)
          if (const Index row = rows[static_cast<std::size_t>(place)]; row >= first)
            plain_row(surrounded, channels[static_cast<std::size_t>(c)], row, target(c, place));
    });
  }

  if (wanted.single.empty()) return;
  const detail::ChannelGroups groups(channel_runs(channels));
  const detail::RowWriter<Scalar> writer(out.rows() * out.cols());
  detail::run_loop(executor, groups.count(), [&](Index group) {
    std::vector<Index> not_finite;  // rows of `out` to be walked exactly
    for (const Index place : wanted.single) {
      const Index row = rows[static_cast<std::size_t>(place)];
      detail::walk_row(surrounded, row, groups, group, [&](const detail::RowPiece<Scalar>& piece) {
        const bool finite = piece.all_finite();
        for (Index lane = 0; lane < piece.run.width; ++lane) {
          Scalar* entries = target(piece.run.place + lane, place);
          if (piece.end == row + 1) writer.zeros(tokens - row - 1, entries + row + 1);
          writer.copy(piece.entries(lane), piece.end - piece.first, entries + piece.first);
          writer.zeros(piece.first - piece.begin, entries + piece.begin);
          if (finite || detail::all_finite(piece.entries(lane), piece.end - piece.first)) continue;
          const Index here = (piece.run.place + lane) * row_count + place;
          if (std::find(not_finite.begin(), not_finite.end(), here) == not_finite.end()) not_finite.push_back(here);
        }
      });
    }
    writer.finish();
    for (const Index here : not_finite)
      plain_row(surrounded, channels[static_cast<std::size_t>(here / row_count)], rows[static_cast<std::size_t>(here % row_count)],
                target(0, here));
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
