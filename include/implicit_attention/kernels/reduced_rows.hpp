// Rows of attention matrices joined over channels, from their factors: no channel's matrix is ever held.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <vector>

#include <implicit_attention/kernels/attention_rows.hpp>
#include <implicit_attention/kernels/reducers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Joins whole maps, some registers of channels at a time: their factors first, every block by itself, then all that is far, every block of
/// rows by itself. Where entries are added up as they are, all these channels' factors are one product.
template <Real Scalar, class Reducer>
class JoinedRows {
 public:
  static constexpr int width = register_lanes<Scalar>;
  using Lane = Lanes<Scalar, width>;
  /// Whether two panels of columns are joined at a time: where a machine has registers for the sums of both (AVX-512 has 32).
  static constexpr bool pairs_panels =
      vector_register_bytes == 64 && IMPLICIT_ATTENTION_BLOCK_TOKENS >= 2 * width && !std::is_same_v<Reducer, Add>;
  static constexpr Index far_columns = std::max<Index>(width, strip_tokens) * (pairs_panels ? 2 : 1);
  /// Channels whose factors are held together: enough for a product to be worth reading and writing what it is joined to (16 where states
  /// make up for channels), few enough for the cache.
  [[nodiscard]] static Index channels_together(Index state) { return (std::clamp<Index>(64 / state, 16, 64) + width - 1) / width * width; }

  JoinedRows(const BlockPlan<Scalar>& plan, const std::vector<std::vector<Scalar*>>& targets, const std::vector<bool>& needed,
             const Reducer& join, Scalar initial)
      : plan_(&plan),
        targets_(&targets),
        needed_(&needed),
        join_(join),
        initial_(initial),
        state_(plan.surrounded().recurrence.state),
        blocks_(static_cast<Index>(plan.blocks().size())),
        factors_(blocks_, blocks_, channels_together(state_), state_, true),
        steps_(static_cast<std::size_t>(channels_together(state_) / width * blocks_)) {}

  /// Joins up to channels_together channels.
  void run(const Index* channels, Index count, const Executor& executor) {
    channels_ = channels;
    count_ = count;
    // Blocks in a fixed number of runs, which begin cheaply; then blocks by themselves, long rows first, so that workers finish together.
    const Index runs = std::min<Index>(blocks_, 16);
    executor(runs, [&](Index run) {
      std::vector<ChannelTile<Scalar>> tiles = loaded_tiles();
      for (Index block = blocks_ * run / runs; block < blocks_ * (run + 1) / runs; ++block)
        if ((*needed_)[static_cast<std::size_t>(block)]) join_near(tiles, block);
    });
    const std::vector<ChannelTile<Scalar>> tiles = loaded_tiles();
    executor(runs, [&](Index run) {
      std::vector<BlockDecays<Scalar>> decays_between(tiles.size(), BlockDecays<Scalar>(blocks_, state_));
      RowVector<Scalar> queries(block_strips * count_ * state_ * strip_tokens);
      for (Index block = blocks_ - 1 - run; block >= 0; block -= runs)
        if (wanted(block)) join_far(tiles, decays_between, queries, block);
    });
  }

 private:
  [[nodiscard]] bool wanted(Index block) const { return !(*targets_)[static_cast<std::size_t>(block)].empty(); }
  [[nodiscard]] Scalar* target(Index block, Index row) const {
    return (*targets_)[static_cast<std::size_t>(block)][static_cast<std::size_t>(row)];
  }
  [[nodiscard]] Lane& steps(Index tile, Index block) { return steps_[static_cast<std::size_t>(tile * blocks_ + block)]; }

  [[nodiscard]] std::vector<ChannelTile<Scalar>> loaded_tiles() const {
    std::vector<ChannelTile<Scalar>> tiles;
    tiles.reserve(static_cast<std::size_t>((count_ + width - 1) / width));
    for (Index first = 0; first < count_; first += width) {
      tiles.emplace_back(*plan_);
      tiles.back().load(channels_ + first, std::min<Index>(width, count_ - first));
    }
    return tiles;
  }

  /// A block's factors, and everything that its rows see in the block itself.
  void join_near(std::vector<ChannelTile<Scalar>>& tiles, Index index) {
    const TokenBlock& block = plan_->block(index);
    const Index lead = plan_->lead(), place = index * block_strips;
    for (Index t = 0; t < static_cast<Index>(tiles.size()); ++t) steps(t, index).setZero();
    for (Index strip = 0; strip < block.strips(); ++strip) {
      const Index first = block.first + strip * strip_tokens, count = std::min(strip_tokens, block.end() - first);
      for (Index r = 0; wanted(index) && r < count; ++r)  // they have left the caches since the last channels
        prefetch<strip_tokens>(target(index, strip * strip_tokens + r) + std::max(first - lead, Index(0)));
      for (Index t = 0; t < static_cast<Index>(tiles.size()); ++t) {
        ChannelTile<Scalar>& tile = tiles[static_cast<std::size_t>(t)];
        tile.compute(first, count, block.document_first);
        steps(t, index) += tile.steps();
        tile.store(factors_, t * width, index, strip, place + strip, wanted(index));
      }
      if (wanted(index)) {
        join_entries(tiles, index, strip, count);
        for_earlier_strips(strip, [&](Index earlier, Index strips) {
          join_product(factors_.queries(0, place + strip), index, earlier, strips * strip_tokens,
                       block.first - lead + earlier * strip_tokens, index, strip);
          for (Index c = 0; c < count_; ++c) {
            Scalar* queries = factors_.queries(c, place + strip);
            Factors<Scalar>::scale_queries(queries, factors_.decays(c, place + earlier), 1, state_, queries);
          }
        });
      }
      for (Index c = 0; c < count_; ++c) factors_.join_strips(c, index, place, strip);
    }
  }

  /// A strip's near entries: across whole tiles first, then across channels.
  void join_entries(const std::vector<ChannelTile<Scalar>>& tiles, Index index, Index strip, Index count) const {
    const Index lead = plan_->lead(), first = plan_->block(index).first + strip * strip_tokens - lead;
    const std::size_t whole = static_cast<std::size_t>(count_ / width);
    for (Index r = 0; r < count; ++r) {
      Scalar* row = target(index, strip * strip_tokens + r);
      for (Index column = std::max(-first, Index(0)); column <= lead + r; ++column) {
        Lane joined = Lane::Constant(initial_);
        for (std::size_t t = 0; t < whole; ++t) joined = join_(joined, tiles[t].entry(r, column));
        Scalar entry = Reducer::over(joined);
        for (Index c = static_cast<Index>(whole) * width; c < count_; ++c) entry = join_(entry, tiles[whole].entry(r, column)[c % width]);
        row[first + column] = Reducer::combine(row[first + column], entry);
      }
    }
  }

  /// What a block's rows see in the blocks before it.
  void join_far(const std::vector<ChannelTile<Scalar>>& tiles, std::vector<BlockDecays<Scalar>>& decays_between, RowVector<Scalar>& queries,
                Index index) {
    const TokenBlock& block = plan_->block(index);
    Index oldest = index;
    for (Index t = 0; t < static_cast<Index>(tiles.size()); ++t) {
      BlockDecays<Scalar>& decay_between = decays_between[static_cast<std::size_t>(t)];
      decay_between.compute(tiles[static_cast<std::size_t>(t)], block, index, [&](Index older) { return steps(t, older); });
      for (Index c = 0; c < tiles[static_cast<std::size_t>(t)].channels(); ++c) oldest = std::min(oldest, decay_between.oldest(c));
    }
    const Index strips = block.strips(), lead = plan_->lead(), per_strip = count_ * state_ * strip_tokens;
    for (Index older = oldest; older < index; ++older) {
      for (Index strip = 0; strip < strips; ++strip)
        for (Index c = 0; c < count_; ++c) {
          Scalar* to = queries.data() + strip * per_strip + c * state_ * strip_tokens;
          const BlockDecays<Scalar>& decay_between = decays_between[static_cast<std::size_t>(c / width)];
          if (decay_between.oldest(c % width) <= older)
            Factors<Scalar>::scale_queries(factors_.queries(c, index * block_strips + strip), decay_between.between(c % width, older),
                                           width, state_, to);
          else
            std::fill_n(to, state_ * strip_tokens, Scalar(0));
        }
      const Index column = plan_->block(older).first - lead;
      for (Index panel = 0; panel < IMPLICIT_ATTENTION_BLOCK_TOKENS; panel += far_columns)
        for (Index strip = 0; strip < strips; ++strip)
          join_product(queries.data() + strip * per_strip, older, panel / strip_tokens, far_columns, column + panel, index, strip);
    }
    if constexpr (Reducer::sees_zeros)
      for (Index row = 0; row < block.tokens; ++row)
        for (Index column = 0; column < plan_->block(oldest).first - lead; ++column)
          target(index, row)[column] = join_(target(index, row)[column], Scalar(0));
  }

  /// Joins the product of a strip's queries and `columns` keys of strip `key_strip` ... of block `key_block`, whose first column is
  /// `first`.
  void join_product(const Scalar* queries, Index key_block, Index key_strip, Index columns, Index first, Index index, Index strip) {
    const Index rows = std::min(strip_tokens, plan_->block(index).tokens - strip * strip_tokens);
    if constexpr (pairs_panels)
      if (columns == 2 * width && first >= 0 && rows == strip_tokens) {
        std::array<Scalar*, register_rows> row{};
        for (Index r = 0; r < rows; ++r) row[static_cast<std::size_t>(r)] = target(index, strip * strip_tokens + r) + first;
        return join_two_panels(queries, factors_.keys(0, key_block, key_strip), row);
      }
    each_panel<Scalar>(columns, [&]<int Columns>(Index column) {
      const Scalar* keys = factors_.keys(0, key_block, key_strip) + column / width * factors_.panel_stride();
      const Index at = first + column, hidden = std::max(-at, Index(0));  // columns before the first token
      if (hidden >= Columns) return;
      std::array<Scalar*, register_rows> row{};  // at the first column that is there
      for (Index r = 0; r < rows; ++r) row[static_cast<std::size_t>(r)] = target(index, strip * strip_tokens + r) + (at + hidden);
      if (rows == strip_tokens && hidden == 0) return join_panel<Columns>(queries, keys, row);
      // Rows and columns that are not there are joined beside the map.
      std::array<Scalar, static_cast<std::size_t>(register_rows * Columns)> beside{};
      std::array<Scalar*, register_rows> row_beside{};
      for (Index r = 0; r < strip_tokens; ++r) row_beside[static_cast<std::size_t>(r)] = beside.data() + r * Columns;
      for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) std::copy_n(row[r], Columns - hidden, row_beside[r] + hidden);
      join_panel<Columns>(queries, keys, row_beside);
      for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) std::copy_n(row_beside[r] + hidden, Columns - hidden, row[r]);
    });
  }

  /// The same for one panel, whose first column `row` points at in each row. In a function of its own, so that sums stay in registers.
  template <int Columns>
  EIGEN_DONT_INLINE void join_panel(const Scalar* queries, const Scalar* keys, const std::array<Scalar*, register_rows>& row) const {
    each_row([&](std::size_t r) { prefetch<Columns>(row[r]); });  // needed last: by then a long map's rows have left the nearer caches
    Tile<Scalar, Columns> tile;
    if constexpr (std::is_same_v<Reducer, Add>) {
      multiply<false, Columns>(queries, keys, state_, tile);
      for (Index c = 1; c < count_; ++c)
        multiply<true, Columns>(queries + c * state_ * strip_tokens, keys + c * state_ * width, state_, tile);
      each_row([&](std::size_t r) { lanes<Columns>(row[r]) += tile[r]; });
    } else {
      Tile<Scalar, Columns> joined;
      each_row([&](std::size_t r) { joined[r] = lanes<Columns>(row[r]); });
      for (Index c = 0; c < count_; ++c) {
        multiply<false, Columns>(queries + c * state_ * strip_tokens, keys + c * state_ * width, state_, tile);
        each_row([&](std::size_t r) { joined[r] = join_(joined[r], tile[r]); });
      }
      each_row([&](std::size_t r) { lanes<Columns>(row[r]) = joined[r]; });
    }
  }

  /// The same for two panels side by side, whose columns are all there: a query that is read once serves both, and twice as many sums hide how
  /// long each takes.
  EIGEN_DONT_INLINE void join_two_panels(const Scalar* queries, const Scalar* keys, const std::array<Scalar*, register_rows>& row) const {
    const Index stride = factors_.panel_stride();
    each_row([&](std::size_t r) { prefetch<2 * width>(row[r]); });
    for (Index c = 0; c < count_; ++c) {
      Tile<Scalar, width> left, right;
      const Scalar *query = queries + c * state_ * strip_tokens, *key = keys + c * state_ * width;
      const Lane first = lanes<width>(key), second = lanes<width>(key + stride);
      each_row([&](std::size_t r) {
        left[r] = query[r] * first;
        right[r] = query[r] * second;
      });
      for (Index n = 1; n < state_; ++n) {
        query += strip_tokens;
        key += width;
        const Lane near_key = lanes<width>(key), next_key = lanes<width>(key + stride);
        each_row([&](std::size_t r) {
          left[r] += query[r] * near_key;
          right[r] += query[r] * next_key;
        });
      }
      each_row([&](std::size_t r) {
        lanes<width>(row[r]) = join_(Lane(lanes<width>(row[r])), left[r]);
        lanes<width>(row[r] + width) = join_(Lane(lanes<width>(row[r] + width)), right[r]);
      });
    }
  }

  const BlockPlan<Scalar>* plan_;
  const std::vector<std::vector<Scalar*>>* targets_;
  const std::vector<bool>* needed_;
  Reducer join_;
  Scalar initial_;  // what an empty join gives
  Index state_, blocks_;
  Factors<Scalar> factors_;
  std::vector<Lane> steps_;  // (tiles, blocks)
  const Index* channels_ = nullptr;
  Index count_ = 0;
};

/// Joins the wanted rows of blocks over channels.
template <Real Scalar, class Reducer>
void reduce_blocks(const BlockPlan<Scalar>& plan, const std::vector<Index>& channels, const RowsByBlock& wanted,
                   const std::vector<Index>& rows, View<Scalar> out, const Executor& executor, const Reducer& join, Scalar initial) {
  const Index tokens = plan.surrounded().recurrence.tokens, channel_count = static_cast<Index>(channels.size());
  // Every row of a wanted block is computed: in the caller's memory, moved a little where that makes whole cache lines of a product's
  // panels, whose columns begin `lead` before a block's (they cost a tenth of the time otherwise), or aside where it is not wanted, or has
  // no room for that.
  constexpr Index line = numbers_in_a_line<Scalar>;
  const Index lead = plan.lead(), aside_stride = (tokens + 2 * line - 2) / line * line;
  const auto moved = [&](Scalar* row) { return row + (lead + rest_of_line(row)) % line; };
  std::vector<std::vector<Scalar*>> targets(wanted.places.size());
  Index aside_rows = 0;
  for (std::size_t b = 0; b < targets.size(); ++b) {
    if (wanted.places[b].empty()) continue;
    const TokenBlock& block = plan.blocks()[b];
    targets[b].assign(static_cast<std::size_t>(block.tokens), nullptr);
    for (const Index place : wanted.places[b]) {
      const Index row = rows[static_cast<std::size_t>(place)];
      Scalar *const begin = out.data() + place * out.outerStride(), *const target = moved(begin);
      if (target + row < begin + tokens) targets[b][static_cast<std::size_t>(row - block.first)] = target;
    }
    aside_rows += std::count(targets[b].begin(), targets[b].end(), nullptr);
  }
  RowVector<Scalar> aside(aside_rows * aside_stride);
  for (std::size_t b = 0; b < targets.size(); ++b)
    for (std::size_t i = 0; i < targets[b].size(); ++i) {
      Scalar*& row = targets[b][i];
      if (row == nullptr) row = moved(aside.data() + --aside_rows * aside_stride);
      std::fill_n(row, plan.blocks()[b].first + static_cast<Index>(i) + 1, initial);
    }

  using Joined = JoinedRows<Scalar, Reducer>;
  const std::vector<bool> needed = wanted.needed(plan);
  Joined joined(plan, targets, needed, join, initial);
  const Index together = Joined::channels_together(plan.surrounded().recurrence.state);
  for (Index first = 0; first < channel_count; first += together)
    joined.run(channels.data() + first, std::min(together, channel_count - first), executor);
  executor(static_cast<Index>(targets.size()), [&](Index block) {
    const auto& places = wanted.places[static_cast<std::size_t>(block)];
    for (const bool own : {false, true})  // a row that is wanted twice was joined in one of its places, which is overwritten last
      for (const Index place : places) {
        const Index row = rows[static_cast<std::size_t>(place)];
        const Scalar* target = targets[static_cast<std::size_t>(block)][static_cast<std::size_t>(row - plan.block(block).first)];
        Scalar* begin = out.data() + place * out.outerStride();
        if (own != (target == moved(begin))) continue;
        std::memmove(begin, target, static_cast<std::size_t>(row + 1) * sizeof(Scalar));
        std::fill(begin + row + 1, begin + tokens, Scalar(0));
      }
  });
}

/// Joins one channel's row, made by the plain walk.
template <Real Scalar, class Reducer>
void join_plain_row(const SurroundedDiagonal<Scalar>& surrounded, Index channel, Index row, Scalar* joined, const Reducer& join) {
  RowVector<Scalar> entries(surrounded.recurrence.tokens);
  plain_row(surrounded, channel, row, entries.data());
  for (Index token = 0; token <= row; ++token) joined[token] = join(joined[token], entries[token]);
}

/// Joins blocks' rows where some channels hold numbers that are not finite. Rows before the first such number are of all channels as if it were another
/// one; in those from it on, these channels' are made by the plain walk, and joined to the others'.
template <Real Scalar, class Reducer>
void reduce_spoilt(const BlockPlan<Scalar>& plan, const std::vector<Index>& channels, const std::vector<SpoiltChannel>& spoilt,
                   const RowsByBlock& wanted, const std::vector<Index>& rows, View<Scalar> out, const Executor& executor,
                   const Reducer& join, Scalar initial) {
  const SurroundedDiagonal<Scalar>& surrounded = plan.surrounded();
  Index first = surrounded.recurrence.tokens;
  for (const SpoiltChannel& channel : spoilt) first = std::min(first, channel.first);
  const auto row_at = [&](Index place) { return rows[static_cast<std::size_t>(place)]; };
  RowsByBlock before = wanted, after = wanted;
  for (std::vector<Index>& places : before.places) std::erase_if(places, [&](Index place) { return row_at(place) >= first; });
  for (std::vector<Index>& places : after.places) std::erase_if(places, [&](Index place) { return row_at(place) < first; });
  const auto any = [](const RowsByBlock& of) {
    return !std::all_of(of.places.begin(), of.places.end(), [](const std::vector<Index>& places) { return places.empty(); });
  };
  if (any(before)) {
    const SurroundedDiagonal<Scalar> finite = finite_part(surrounded);
    reduce_blocks(BlockPlan<Scalar>(finite), channels, before, rows, out, executor, join, initial);
  }
  if (!any(after)) return;
  std::vector<Index> others = channels;
  for (auto channel = spoilt.rbegin(); channel != spoilt.rend(); ++channel) others.erase(others.begin() + channel->place);
  reduce_blocks(plan, others, after, rows, out, executor, join, initial);
  for (const std::vector<Index>& places : after.places)
    executor(static_cast<Index>(places.size()), [&](Index index) {
      const Index place = places[static_cast<std::size_t>(index)];
      for (const SpoiltChannel& channel : spoilt)
        join_plain_row(surrounded, channels[static_cast<std::size_t>(channel.place)], row_at(place), out.data() + place * out.outerStride(),
                       join);
    });
}

/// One row joined over channels: within each group of channels first, then over the groups in order.
template <Real Scalar, class Reducer>
void reduce_single_row(const SurroundedDiagonal<Scalar>& surrounded, const ChannelGroups& groups, Index row, Scalar* out,
                       const Executor& executor, const Reducer& join, Scalar initial) {
  const Index tokens = surrounded.recurrence.tokens;
  Matrix<Scalar> joined(groups.count(), row + 1);
  joined.setConstant(initial);
  executor(groups.count(), [&](Index group) {
    walk_row(surrounded, row, groups, group, [&]<int Width>(const RowPiece<Width, Scalar>& piece) {
      join_rows(join, piece.entries(0), tokens_in_a_piece, Width, piece.end - piece.first, &joined(group, piece.first));
      if constexpr (Reducer::sees_zeros)
        for (Index token = piece.begin; token < piece.first; ++token) joined(group, token) = join(joined(group, token), Scalar(0));
    });
  });
  for (Index token = 0; token <= row; ++token) {
    out[token] = joined(0, token);
    for (Index group = 1; group < groups.count(); ++group) out[token] = Reducer::combine(out[token], joined(group, token));
  }
  std::fill(out + row + 1, out + tokens, Scalar(0));
}

}  // namespace detail

/// out[r, j] = join over `channels` of row rows[r]'s entries, (rows, tokens); `initial` is what an empty join gives. Sums are not divided.
template <Real Scalar, class Reducer>
void reduced_rows(const SurroundedDiagonal<Scalar>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& rows,
                  View<Scalar> out, const Executor& executor, const Reducer& join, Scalar initial) {
  const detail::BlockPlan<Scalar> plan(surrounded);
  const detail::RowsByBlock wanted(plan, rows);
  if (wanted.any_block) {
    const std::vector<detail::SpoiltChannel> spoilt = detail::not_finite_channels(surrounded, channels);
    if (spoilt.empty())
      detail::reduce_blocks(plan, channels, wanted, rows, out, executor, join, initial);
    else
      detail::reduce_spoilt(plan, channels, spoilt, wanted, rows, out, executor, join, initial);
  }
  if (wanted.single.empty()) return;
  const detail::ChannelGroups groups(channel_runs(channels));
  for (const Index place : wanted.single) {
    const Index row = rows[static_cast<std::size_t>(place)];
    Scalar* joined = out.data() + place * out.outerStride();
    detail::reduce_single_row(surrounded, groups, row, joined, executor, join, initial);
    if (detail::all_finite(joined, row + 1)) continue;
    std::fill(joined, joined + row + 1, initial);
    for (const Index channel : channels) detail::join_plain_row(surrounded, channel, row, joined, join);
  }
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
