// Rows of attention matrices joined over channels, from their factors: no channel's matrix is ever held.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <vector>

#include <implicit_attention/kernels/attention_rows.hpp>
#include <implicit_attention/kernels/join_targets.hpp>
#include <implicit_attention/kernels/product_join.hpp>
#include <implicit_attention/kernels/reducers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// How far blocks have come while some channels are joined by several workers.
class BlockProgress {
 public:
  explicit BlockProgress(Index blocks) : blocks_(static_cast<std::size_t>(blocks)), place_is_taken_(static_cast<std::size_t>(blocks)) {}

  /// Begins with other channels.
  void begin() {
    for (Block& block : blocks_) block.has_keys = false;
  }
  void enter() {
    if (running_.fetch_add(1) != 0) alone_ = false;
  }
  void leave() { running_.fetch_sub(1); }
  /// Whether no two runs of blocks were ever seen side by side: if they were, long rows, which come last, are shared out.
  [[nodiscard]] bool alone() const { return alone_; }

  void set_has_keys(Index block) { at(block).has_keys.store(true, std::memory_order_release); }
  [[nodiscard]] bool have_keys(Index first, Index end) const {
    for (Index block = first; block < end; ++block)
      if (!blocks_[static_cast<std::size_t>(block)].has_keys.load(std::memory_order_acquire)) return false;
    return true;
  }
  /// Whether the block's rows have not gone on to the blocks before it.
  [[nodiscard]] bool& left(Index block) { return at(block).left; }

  /// Where a block's queries and decays are.
  [[nodiscard]] Index place(Index block) const { return blocks_[static_cast<std::size_t>(block)].place; }
  /// A place that no other block has: the first one, so that one worker has all in the same memory.
  void take_place(Index block) {
    Index place = 0;
    while (place_is_taken_[static_cast<std::size_t>(place)].exchange(true, std::memory_order_acquire)) ++place;
    at(block).place = place;
  }
  void free_place(Index block) { place_is_taken_[static_cast<std::size_t>(place(block))].store(false, std::memory_order_release); }

 private:
  struct Block {
    std::atomic<bool> has_keys = false;
    bool left = false;
    Index place = 0;
  };
  [[nodiscard]] Block& at(Index block) { return blocks_[static_cast<std::size_t>(block)]; }

  std::vector<Block> blocks_;
  std::vector<std::atomic<bool>> place_is_taken_;  // one for each block at most
  std::atomic<Index> running_ = 0;                 // runs of blocks at this moment
  std::atomic<bool> alone_ = true;
};

/// Registers of channels, ready to compute strips.
template <Real Scalar>
[[nodiscard]] std::vector<ChannelTile<Scalar>> loaded_tiles(const BlockPlan<Scalar>& plan, const Index* channels, Index count) {
  constexpr Index width = register_lanes<Scalar>;
  std::vector<ChannelTile<Scalar>> tiles;
  tiles.reserve(static_cast<std::size_t>((count + width - 1) / width));
  for (Index first = 0; first < count; first += width) {
    tiles.emplace_back(plan);
    tiles.back().load(channels + first, std::min<Index>(width, count - first));
  }
  return tiles;
}

/// What a worker needs to join blocks' rows with the blocks before them.
template <Real Scalar>
class FarKeys {
 public:
  static constexpr int width = register_lanes<Scalar>;

  /// For products of `columns` columns.
  FarKeys(Factors<Scalar>& factors, Index blocks, Index state, std::size_t tiles, Index columns)
      : factors_(&factors),
        state_(state),
        panels_(columns / width),
        decays_between_(tiles, BlockDecays<Scalar>(blocks, state)),
        keys_(panels_ * factors.panel_stride()) {}

  [[nodiscard]] BlockDecays<Scalar>& decays_between(Index tile) { return decays_between_[static_cast<std::size_t>(tile)]; }
  /// The keys of a product's columns, those of block `older` from `column` on, at the start of the rows' block: they are fewer than the
  /// queries, stay in the nearest cache, and serve all strips.
  [[nodiscard]] const Scalar* scaled(Index channels, Index older, Index column) {
    for (Index panel = 0; panel < panels_; ++panel)
      for (Index c = 0; c < channels; ++c) {
        const BlockDecays<Scalar>& decay_between = decays_between(c / width);
        const Scalar* const from = factors_->keys(c, older, column / strip_tokens) + panel * factors_->panel_stride();
        Scalar* const to = keys_.data() + panel * factors_->panel_stride() + c * state_ * width;
        if (decay_between.oldest(c % width) <= older)
          Factors<Scalar>::template scale<width>(from, decay_between.between(c % width, older), width, state_, to);
        else
          std::fill_n(to, state_ * width, Scalar(0));
      }
    return keys_.data();
  }

 private:
  Factors<Scalar>* factors_;
  Index state_, panels_;
  std::vector<BlockDecays<Scalar>> decays_between_;  // of every tile
  RowVector<Scalar> keys_;
};

/// Joins whole maps, some registers of channels at a time: first every block's factors and what its rows see in the block itself, then what
/// every block's rows see in the blocks before it.
template <Real Scalar, class Reducer>
class JoinedRows {
 public:
  static constexpr int width = register_lanes<Scalar>;
  using Lane = Lanes<Scalar, width>;
  /// Channels whose factors are held together: enough for a product to be worth reading and writing what it is joined to (16 where states
  /// make up for channels), few enough for the cache.
  [[nodiscard]] static Index channels_together(Index state) { return (std::clamp<Index>(64 / state, 16, 64) + width - 1) / width * width; }

  JoinedRows(const BlockPlan<Scalar>& plan, const JoinTargets<Scalar>& targets, const std::vector<Index>& needed, const Reducer& join,
             Scalar initial)
      : plan_(&plan),
        targets_(&targets),
        needed_(&needed),
        join_(join),
        initial_(initial),
        state_(plan.surrounded().recurrence.state),
        blocks_(static_cast<Index>(plan.blocks().size())),
        factors_(blocks_, blocks_, channels_together(state_), state_, true),
        progress_(blocks_),
        products_(join, state_, factors_.panel_stride()),
        steps_(static_cast<std::size_t>(channels_together(state_) / width * blocks_)) {}

  /// Joins up to channels_together channels.
  void run(const Index* channels, Index count, const Executor& executor) {
    channels_ = channels;
    count_ = count;
    products_.take_channels(count);
    progress_.begin();
    // Blocks in a fixed number of runs, which begin cheaply. Where one worker takes block after block, the rows of a block go on to the
    // blocks before it at once, while they and their queries are in the caches.
    const Index runs = std::min<Index>(blocks_, 16);
    std::atomic<bool> any_left = false;
    detail::run_loop(executor, runs, [&](Index run) {
      progress_.enter();
      std::vector<ChannelTile<Scalar>> tiles = loaded_tiles(*plan_, channels_, count_);
      FarKeys<Scalar> far_keys(factors_, blocks_, state_, tiles.size(), products_.columns_together);
      for (Index block = blocks_ * run / runs; block < blocks_ * (run + 1) / runs; ++block) {
        if ((*needed_)[static_cast<std::size_t>(block)] == 0) continue;
        progress_.take_place(block);
        join_near(tiles, block);
        progress_.set_has_keys(block);
        progress_.left(block) = targets_->wanted(block) && !(progress_.alone() && progress_.have_keys(plan_->block(block).document, block));
        if (progress_.left(block)) {
          any_left = true;
          continue;
        }
        if (targets_->wanted(block)) join_far(tiles, far_keys, block);
        progress_.free_place(block);
      }
      progress_.leave();
    });
    if (!any_left) return;
    // The others, long rows first, so that workers finish together.
    const std::vector<ChannelTile<Scalar>> tiles = loaded_tiles(*plan_, channels_, count_);
    detail::run_loop(executor, runs, [&](Index run) {
      FarKeys<Scalar> far_keys(factors_, blocks_, state_, tiles.size(), products_.columns_together);
      for (Index block = blocks_ - 1 - run; block >= 0; block -= runs) {
        if (!progress_.left(block)) continue;
        join_far(tiles, far_keys, block);
        progress_.left(block) = false;
        progress_.free_place(block);
      }
    });
  }

 private:
  [[nodiscard]] Lane& steps(Index tile, Index block) { return steps_[static_cast<std::size_t>(tile * blocks_ + block)]; }

  /// A block's factors, and everything that its rows see in the block itself.
  void join_near(std::vector<ChannelTile<Scalar>>& tiles, Index index) {
    const TokenBlock& block = plan_->block(index);
    const Index place = progress_.place(index) * block_strips;
    for (Index t = 0; t < static_cast<Index>(tiles.size()); ++t) steps(t, index).setZero();
    for (Index strip = 0; strip < block.strips(); ++strip) {
      const Index first = block.first + strip * strip_tokens, count = std::min(strip_tokens, block.end() - first);
      for (Index r = 0; targets_->wanted(index) && r < count; ++r)  // they have left the caches since the last channels
        prefetch<strip_tokens>(targets_->row(index, strip * strip_tokens + r) + first);
      for (Index t = 0; t < static_cast<Index>(tiles.size()); ++t) {
        ChannelTile<Scalar>& tile = tiles[static_cast<std::size_t>(t)];
        tile.compute(first, count, block.document_first);
        steps(t, index) += tile.steps();
        tile.store(factors_, t * width, index, strip, place + strip, targets_->wanted(index));
      }
      if (targets_->wanted(index)) {
        join_entries(tiles, index, strip, count);
        for_earlier_strips(strip, [&](Index earlier, Index strips) {
          products_.join(factors_.queries(0, place + strip), factors_.keys(0, index, earlier), strips * strip_tokens,
                         block.first + earlier * strip_tokens, targets_->rows_of(index) + strip * strip_tokens, count);
          Scalar* const queries = factors_.queries(0, place + strip);  // of all channels, as their decays are
          Factors<Scalar>::scale_queries(queries, factors_.decays(0, place + earlier), 1, count_ * state_, queries);
        });
      }
      factors_.join_strips(0, count_, index, place, strip);
    }
  }

  /// A strip's near entries: across whole tiles first, then across channels.
  void join_entries(const std::vector<ChannelTile<Scalar>>& tiles, Index index, Index strip, Index count) const {
    const Index lead = plan_->lead(), first = plan_->block(index).first + strip * strip_tokens;
    const std::size_t whole = static_cast<std::size_t>(count_ / width);
    LaneRows<Scalar, width> joined(width);  // of neighbouring columns, whose channels are joined together
    for (Index r = 0; r < count; ++r) {
      Scalar* row = targets_->row(index, strip * strip_tokens + r);
      for (Index begin = 0; begin <= lead + r; begin += width) {
        const Index columns = std::min<Index>(width, lead + r + 1 - begin);
        for (Index k = 0; k < columns; ++k) {
          Lane entry = Lane::Constant(initial_);
          for (std::size_t t = 0; t < whole; ++t) entry = join_(entry, tiles[t].entry(r, begin + k));
          joined.row(k) = entry;
        }
        for (Index k = columns; k < width; ++k) joined.row(k).setZero();
        Lane entries = Reducer::template over_rows<width>(joined.data(), columns);
        for (Index c = static_cast<Index>(whole) * width; c < count_; ++c)
          for (Index k = 0; k < columns; ++k) entries[k] = join_(entries[k], tiles[whole].entry(r, begin + k)[c % width]);
        for (Index k = 0; k < columns; ++k) row[first + begin + k] = Reducer::combine(row[first + begin + k], entries[k]);
      }
    }
  }

  /// What a block's rows see in the blocks before it.
  void join_far(const std::vector<ChannelTile<Scalar>>& tiles, FarKeys<Scalar>& far_keys, Index index) {
    const Index place = progress_.place(index) * block_strips;
    const TokenBlock& block = plan_->block(index);
    Index oldest = index;
    for (Index t = 0; t < static_cast<Index>(tiles.size()); ++t) {
      BlockDecays<Scalar>& decay_between = far_keys.decays_between(t);
      decay_between.compute(tiles[static_cast<std::size_t>(t)], block, index, [&](Index older) { return steps(t, older); });
      for (Index c = 0; c < tiles[static_cast<std::size_t>(t)].channels(); ++c) oldest = std::min(oldest, decay_between.oldest(c));
    }
    const Index strips = block.strips();
    for (Index older = oldest; older < index; ++older)
      for (Index column = 0; column < IMPLICIT_ATTENTION_BLOCK_TOKENS; column += products_.columns_together) {
        const Scalar* const keys = far_keys.scaled(count_, older, column);
        for (Index strip = 0; strip < strips; ++strip)
          products_.join(factors_.queries(0, place + strip), keys, products_.columns_together, plan_->block(older).first + column,
                         targets_->rows_of(index) + strip * strip_tokens, std::min(strip_tokens, block.tokens - strip * strip_tokens));
      }
    if constexpr (Reducer::sees_zeros)
      for (Index row = 0; row < block.tokens; ++row)
        for (Index column = 0; column < plan_->block(oldest).first; ++column)
          targets_->row(index, row)[column] = join_(targets_->row(index, row)[column], Scalar(0));
  }

  const BlockPlan<Scalar>* plan_;
  const JoinTargets<Scalar>* targets_;
  const std::vector<Index>* needed_;
  Reducer join_;
  Scalar initial_;  // what an empty join gives
  Index state_, blocks_;
  Factors<Scalar> factors_;
  BlockProgress progress_;
  ProductJoin<Scalar, Reducer> products_;
  std::vector<Lane> steps_;  // (tiles, blocks)
  const Index* channels_ = nullptr;
  Index count_ = 0;
};

/// Joins the wanted rows of blocks over channels.
template <Real Scalar, class Reducer>
void reduce_blocks(const BlockPlan<Scalar>& plan, const std::vector<Index>& channels, const RowsByBlock& wanted,
                   const std::vector<Index>& rows, View<Scalar> out, const Executor& executor, const Reducer& join, Scalar initial) {
  const JoinTargets<Scalar> targets(plan, wanted, rows, out, initial);
  const Index channel_count = static_cast<Index>(channels.size());
  using Joined = JoinedRows<Scalar, Reducer>;
  const std::vector<Index> needed = wanted.needed(plan);
  Joined joined(plan, targets, needed, join, initial);
  const Index together = Joined::channels_together(plan.surrounded().recurrence.state);
  for (Index first = 0; first < channel_count; first += together)
    joined.run(channels.data() + first, std::min(together, channel_count - first), executor);
  detail::run_loop(executor, targets.blocks(), [&](Index block) { targets.move_to_places(block); });
}

/// Joins one channel's row, made by the plain walk.
template <Real Scalar, class Reducer>
void join_plain_row(const SurroundedDiagonal<Scalar>& surrounded, Index channel, Index row, Scalar* joined, const Reducer& join) {
  RowVector<Scalar> entries(surrounded.recurrence.tokens);
  plain_row(surrounded, channel, row, entries.data());
  for (Index token = 0; token <= row; ++token) joined[token] = join(joined[token], entries[token]);
}

/// Joins blocks' rows where some channels hold numbers that are not finite. Rows before the first such number are joined over all channels,
/// with finite numbers in place of those; from it on, these channels' rows come from the plain walk and are joined to the others'.
template <Real Scalar, class Reducer>
void reduce_spoilt(const BlockPlan<Scalar>& plan, const std::vector<Index>& channels, const std::vector<Index>& spoilt,
                   const RowsByBlock& wanted, const std::vector<Index>& rows, View<Scalar> out, const Executor& executor,
                   const Reducer& join, Scalar initial) {
  const SurroundedDiagonal<Scalar>& surrounded = plan.surrounded();
  const Index tokens = surrounded.recurrence.tokens, first = *std::min_element(spoilt.begin(), spoilt.end());
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
  std::vector<Index> others, plain;  // channels
  for (std::size_t place = 0; place < channels.size(); ++place) (spoilt[place] < tokens ? plain : others).push_back(channels[place]);
  reduce_blocks(plan, others, after, rows, out, executor, join, initial);
  for (const std::vector<Index>& places : after.places)
    detail::run_loop(executor, static_cast<Index>(places.size()), [&](Index index) {
      const Index place = places[static_cast<std::size_t>(index)];
      for (const Index channel : plain) join_plain_row(surrounded, channel, row_at(place), out.data() + place * out.outerStride(), join);
    });
}

/// One row joined over channels: within each group of channels first, then over the groups in order.
template <Real Scalar, class Reducer>
void reduce_single_row(const SurroundedDiagonal<Scalar>& surrounded, const ChannelGroups& groups, Index row, Scalar* out,
                       const Executor& executor, const Reducer& join, Scalar initial) {
  const Index tokens = surrounded.recurrence.tokens;
  Matrix<Scalar> joined(groups.count(), row + 1);
  joined.setConstant(initial);
  detail::run_loop(executor, groups.count(), [&](Index group) {
    walk_row(surrounded, row, groups, group, [&](const RowPiece<Scalar>& piece) {
      join_rows(join, piece.entries(0), tokens_in_a_piece, piece.run.width, piece.end - piece.first, &joined(group, piece.first));
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
    const std::vector<Index> spoilt = detail::first_spoilt_tokens(surrounded, channels);
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
