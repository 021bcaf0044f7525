// Rows of attention matrices joined over channels, block by block: no channel's matrix is ever held whole.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

#include <implicit_attention/kernels/attention_rows.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Channels whose factors are held, and where entries are simply added up multiplied, together.
constexpr Index channels_together = 16;

/// Joins one block's rows of several channels, whose key factors are loaded, to `target(i)`, tokens numbers each; columns right of the block
/// are left alone. Where entries are added up, all channels' factors are one product; elsewhere each channel's entries are made in registers.
template <Real Scalar, class Target, class Join>
void join_block_rows(const BlockPlan<Scalar>& plan, const std::vector<ChannelBlocks<Scalar>>& loaded, Index count, Index index,
                     BlockScratch<Scalar>& scratch, const Target& target, const Join& join) {
  constexpr bool add = std::is_same_v<Join, Add>;
  const TokenBlock& block = plan.block(index);
  const std::vector<Panel>& panels = plan.panels();
  const Index lead = plan.lead(), leading = std::min(lead, block.first), near_first = block.first - leading;
  const Index state = plan.dressed().recurrence.state, end = plan.panel_end(index);
  Index oldest = index;
  for (Index c = 0; c < count; ++c) oldest = std::min(oldest, loaded[static_cast<std::size_t>(c)].oldest_seen(index));
  const Index first_panel = loaded.front().first_panel(index, oldest);
  const auto first_column = [&](Index panel) { return panel == end ? block.first : panels[static_cast<std::size_t>(panel)].first; };
  // The last panels hold columns that the block's own convolution adds to: unless sums are taken, these are made whole before they are joined.
  const Index edge_panel = add || leading == 0 ? end : std::max(plan.panel_of(near_first), first_panel);
  const Index edge_first = add ? near_first : std::min(first_column(edge_panel), near_first);

  for (Index c = 0; c < count; ++c) {
    const ChannelBlocks<Scalar>& channel_blocks = loaded[static_cast<std::size_t>(c)];
    channel_blocks.queries(index, scratch, c);
    channel_blocks.keys(index, oldest, first_panel, scratch, c);
    channel_blocks.diagonal(index, scratch);
    scratch.edge.setZero();
    if (edge_panel < end) {
      const PackedFactors<Scalar> factors{scratch.queries.data() + c * state * register_rows,
                                          scratch.keys.data() + c * state * register_lanes<Scalar>, scratch.inner, 1, state};
      product_panels(factors, block.tokens, panels, edge_panel, end, [&](Index i) { return &scratch.edge(i, 0) - edge_first; }, Overwrite{});
    }
    for (Index i = 0; i < block.tokens; ++i) {
      Scalar* row = target(i);
      const Scalar* near = &scratch.near(i, lead - leading);
      for (Index column = edge_first; column < block.first; ++column) {
        const Scalar seen = column < near_first ? Scalar(0) : near[column - near_first];
        row[column] = join(row[column], scratch.edge(i, column - edge_first) + seen);
      }
      for (Index column = 0; column <= i; ++column) row[block.first + column] = join(row[block.first + column], near[leading + column]);
      if constexpr (Join::sees_zeros)
        for (Index column = 0; column < std::min(first_column(first_panel), edge_first); ++column) row[column] = join(row[column], Scalar(0));
    }
  }
  const PackedFactors<Scalar> factors{scratch.queries.data(), scratch.keys.data(), scratch.inner, add ? 1 : count, add ? count * state : state};
  product_panels(factors, block.tokens, panels, first_panel, edge_panel, target, join);
}

template <Real Scalar, class Join>
void reduce_blocks(const BlockPlan<Scalar>& plan, const std::vector<Index>& channels, const std::vector<RowsByBlock::Wanted>& wanted,
                   const std::vector<Index>& rows, View<Scalar> out, const Executor& executor, const Join& join, Scalar initial) {
  const Index tokens = plan.dressed().recurrence.tokens, channel_count = static_cast<Index>(channels.size());
  const Index end = plan.block(wanted.back().block).end();
  // Every row of a block is computed; rows that are not wanted go aside. One that is wanted twice is copied at the end.
  std::vector<std::vector<Scalar*>> targets(wanted.size());
  Index aside_rows = 0;
  for (std::size_t w = 0; w < wanted.size(); ++w) {
    const TokenBlock& block = plan.block(wanted[w].block);
    targets[w].assign(static_cast<std::size_t>(block.tokens), nullptr);
    for (const Index place : wanted[w].places)
      targets[w][static_cast<std::size_t>(rows[static_cast<std::size_t>(place)] - block.first)] = out.data() + place * out.outerStride();
    aside_rows += std::count(targets[w].begin(), targets[w].end(), nullptr);
  }
  Matrix<Scalar> aside(aside_rows, tokens);
  for (std::size_t w = 0; w < wanted.size(); ++w)
    for (Scalar*& row : targets[w]) {
      if (row == nullptr) row = aside.data() + --aside_rows * tokens;
      std::fill(row, row + plan.block(wanted[w].block).end(), initial);
      std::fill(row + plan.block(wanted[w].block).end(), row + tokens, Scalar(0));
    }

  std::vector<ChannelBlocks<Scalar>> loaded;
  for (Index c = 0; c < std::min(channels_together, channel_count); ++c) loaded.emplace_back(plan);
  const Index per_task = std::max<Index>(1, static_cast<Index>(wanted.size()) / 16), tasks = (static_cast<Index>(wanted.size()) + per_task - 1) / per_task;
  for (Index first = 0; first < channel_count; first += channels_together) {
    const Index count = std::min(channels_together, channel_count - first);
    executor(count, [&](Index c) { loaded[static_cast<std::size_t>(c)].load(channels[static_cast<std::size_t>(first + c)], end); });
    executor(tasks, [&](Index task) {
      BlockScratch<Scalar> scratch(plan, static_cast<Index>(loaded.size()));
      // Long rows first, so that workers finish together.
      const Index last = static_cast<Index>(wanted.size()) - task * per_task;
      for (Index w = last - 1; w >= std::max(last - per_task, Index(0)); --w) {
        const auto target = [&](Index i) { return targets[static_cast<std::size_t>(w)][static_cast<std::size_t>(i)]; };
        join_block_rows(plan, loaded, count, wanted[static_cast<std::size_t>(w)].block, scratch, target, join);
      }
    });
  }
  for (std::size_t w = 0; w < wanted.size(); ++w) {
    const TokenBlock& block = plan.block(wanted[w].block);
    for (Index i = 0; i < block.tokens; ++i) {
      Scalar* row = targets[w][static_cast<std::size_t>(i)];
      // Right of the diagonal nothing is seen.
      std::fill(row + block.first + i + 1, row + block.end(), Scalar(0));
    }
    for (const Index place : wanted[w].places) {
      Scalar* row = targets[w][static_cast<std::size_t>(rows[static_cast<std::size_t>(place)] - block.first)];
      Scalar* copy = out.data() + place * out.outerStride();
      if (copy != row) std::copy(row, row + tokens, copy);
    }
  }
}

/// One row joined over channels: tiles of channels are walked in a fixed number of groups, whose rows are joined in order.
template <Real Scalar, class Join>
void reduce_single_row(const DressedDiagonal<Scalar>& dressed, const std::vector<Index>& channels, Index row, Scalar* out, const Executor& executor,
                       const Join& join, Scalar initial) {
  const Index tokens = dressed.recurrence.tokens;
  constexpr Index group_count = 8;
  const bool every = is_every(channels, dressed.recurrence.channels);
  Matrix<Scalar> partial(group_count, row + 1);
  partial.setConstant(initial);
  const auto walk = [&]<int Width>(Index channel, Index group) {
    const Index finished = walk_row_in_pieces<Width>(dressed, row, channel, [&](const RowPiece<Scalar>& piece) {
      for (Index i = 0; i < piece.count; ++i) {
        Scalar& joined = partial(group, piece.highest - i);
        for (Index lane = 0; lane < piece.channels; ++lane) joined = join(joined, piece.entries[i * piece.channels + lane]);
      }
    });
    if constexpr (Join::sees_zeros)
      for (Index token = 0; token < finished; ++token) partial(group, token) = join(partial(group, token), Scalar(0));
  };
  executor(group_count, [&](Index group) {
    if (every) {
      Index tile = 0;
      for_channel_tiles(dressed.recurrence.channels, serial_executor(), [&]<int Width>(Index channel) {
        if (tile++ % group_count == group) walk.template operator()<Width>(channel, group);
      });
    } else {
      for (Index c = group; c < static_cast<Index>(channels.size()); c += group_count)
        walk.template operator()<1>(channels[static_cast<std::size_t>(c)], group);
    }
  });
  for (Index token = 0; token <= row; ++token) {
    out[token] = partial(0, token);
    for (Index group = 1; group < group_count; ++group) out[token] = Join::combine(out[token], partial(group, token));
  }
  std::fill(out + row + 1, out + tokens, Scalar(0));
}

}  // namespace detail

/// out[r, j] = join over `channels` of row rows[r]'s entries, (rows, tokens); `initial` is what an empty join gives. Sums are not divided.
template <Real Scalar, class Join>
void reduced_rows(const DressedDiagonal<Scalar>& dressed, const std::vector<Index>& channels, const std::vector<Index>& rows, View<Scalar> out,
                  const Executor& executor, const Join& join, Scalar initial) {
  const BlockPlan<Scalar> plan(dressed);
  const detail::RowsByBlock wanted(plan.blocks(), rows);
  if (!wanted.blocks.empty()) detail::reduce_blocks(plan, channels, wanted.blocks, rows, out, executor, join, initial);
  for (const Index place : wanted.single)
    detail::reduce_single_row(dressed, channels, rows[static_cast<std::size_t>(place)], out.data() + place * out.outerStride(), executor, join, initial);
}

/// The same where the matrix is given.
template <Real Scalar, class Join>
void reduced_rows(const DressedExplicit<Scalar>& dressed, const std::vector<Index>& channels, const std::vector<Index>& rows, View<Scalar> out,
                  const Executor& executor, const Join& join, Scalar initial) {
  const Index tokens = dressed.recurrence.tokens;
  executor(static_cast<Index>(rows.size()), [&](Index place) {
    RowVector<Scalar> values(tokens);
    Scalar* row = out.data() + place * out.outerStride();
    const Index query = rows[static_cast<std::size_t>(place)];
    std::fill(row, row + query + 1, initial);
    std::fill(row + query + 1, row + tokens, Scalar(0));
    for (const Index channel : channels) {
      plain_row(dressed, channel, query, values.data());
      for (Index token = 0; token <= query; ++token) row[token] = join(row[token], values[token]);
    }
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
