// Rows of attention matrices, per channel or joined over channels: which kernel computes what.
//
// Many rows of a block go through the blocked product form, single rows through the walk backwards from the row; both are linear in what they
// write. A given matrix (ExplicitRecurrence) is copied row by row.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include <implicit_attention/kernels/blocks.hpp>
#include <implicit_attention/kernels/joins.hpp>
#include <implicit_attention/kernels/product.hpp>
#include <implicit_attention/kernels/row_walk.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Fewer rows of a block than this are walked one by one.
constexpr Index rows_worth_a_block = 4;

/// The wanted rows (places in the caller's list) of each block that is worth computing whole, and the rest.
struct RowsByBlock {
  struct Wanted {
    Index block;
    std::vector<Index> places;
  };
  std::vector<Wanted> blocks;
  std::vector<Index> single;  ///< places

  RowsByBlock(const std::vector<TokenBlock>& all, const std::vector<Index>& rows) {
    std::vector<std::vector<Index>> places(all.size());
    for (std::size_t place = 0; place < rows.size(); ++place) {
      const auto after = std::upper_bound(all.begin(), all.end(), rows[place], [](Index row, const TokenBlock& block) { return row < block.first; });
      places[static_cast<std::size_t>(after - all.begin() - 1)].push_back(static_cast<Index>(place));
    }
    for (std::size_t index = 0; index < all.size(); ++index) {
      if (static_cast<Index>(places[index].size()) >= std::min(rows_worth_a_block, all[index].tokens))
        blocks.push_back({static_cast<Index>(index), std::move(places[index])});
      else
        single.insert(single.end(), places[index].begin(), places[index].end());
    }
  }
};

/// Columns of a few rows that fit the nearest cache beside their factors.
constexpr Index columns_in_a_piece = 512;

/// The diagonal block of one row, and zeros from there to the end of the row; `out` points at the block's first column.
template <Real Scalar>
void write_end(const TokenBlock& block, const BlockScratch<Scalar>& scratch, Index r, Index lead, Scalar* out, Index tokens) {
  const Scalar* near = &scratch.near(r, lead);
  std::copy(near, near + block.tokens, out);
  std::fill(out + block.tokens, out + tokens - block.first, Scalar(0));
}

/// Computes the rows of a block of the channel that `channel_blocks` holds; `target(i)` is where row i of the block goes (tokens numbers).
template <Real Scalar, class Target>
void write_block_rows(const BlockPlan<Scalar>& plan, const ChannelBlocks<Scalar>& channel_blocks, Index index, BlockScratch<Scalar>& scratch,
                      const Target& target) {
  const TokenBlock& block = plan.block(index);
  const Index tokens = plan.dressed().recurrence.tokens, lead = plan.lead(), leading = std::min(lead, block.first);
  const Index oldest = channel_blocks.oldest_seen(index), first_panel = channel_blocks.first_panel(index, oldest);
  channel_blocks.queries(index, scratch);
  channel_blocks.keys(index, oldest, first_panel, scratch);
  channel_blocks.diagonal(index, scratch);
  const std::vector<Panel>& panels = plan.panels();
  const Index end = plan.panel_end(index), near_first = block.first - leading;
  const Index first = first_panel == end ? near_first : panels[static_cast<std::size_t>(first_panel)].first;

  // Memory takes rows that are written from end to end at its full rate, and rows that are written side by side at half of it:
  // so a few rows are made in the nearest cache, and go out one after the other.
  std::array<Scalar, register_rows * columns_in_a_piece> piece;
  const auto piece_row = [&](Index r, Index column) { return piece.data() + r * columns_in_a_piece + column; };
  for (Index base = 0; base < block.tokens; base += register_rows) {
    const Index rows = std::min<Index>(register_rows, block.tokens - base);
    for (Index panel = first_panel; panel < end;) {
      const Index stop = std::min(panel + columns_in_a_piece / register_lanes<Scalar>, end);
      const Panel &head = panels[static_cast<std::size_t>(panel)], &tail = panels[static_cast<std::size_t>(stop - 1)];
      const Index origin = head.first, columns = tail.first + tail.columns - origin;
      const PackedFactors<Scalar> factors{scratch.queries.data() + base * scratch.inner, scratch.keys.data(), scratch.inner, 1, scratch.inner};
      product_panels(factors, rows, panels, panel, stop, [&](Index r) { return piece_row(r, -origin); }, Overwrite{});
      for (Index r = 0; r < rows; ++r) {
        for (Index column = std::max(origin, near_first); column < origin + columns; ++column)
          *piece_row(r, column - origin) += scratch.near(base + r, lead + column - block.first);
        Scalar* row = target(base + r);
        if (panel == first_panel) std::fill(row, row + first, Scalar(0));
        std::copy(piece_row(r, 0), piece_row(r, columns), row + origin);
        if (stop == end) write_end(block, scratch, base + r, lead, row + block.first, tokens);
      }
      panel = stop;
    }
    if (first_panel == end)
      for (Index r = base; r < base + rows; ++r) {
        Scalar* row = target(r);
        std::fill(row, row + near_first, Scalar(0));
        std::copy(&scratch.near(r, lead - leading), &scratch.near(r, lead - leading) + leading, row + near_first);
        write_end(block, scratch, r, lead, row + block.first, tokens);
      }
  }
}

}  // namespace detail

/// Rows `rows` of the matrices of `channels`, channel after channel, into `out` (channels * rows, tokens).
template <Real Scalar>
void attention_rows(const DressedDiagonal<Scalar>& dressed, const std::vector<Index>& channels, const std::vector<Index>& rows, View<Scalar> out,
                    const Executor& executor) {
  const BlockPlan<Scalar> plan(dressed);
  const detail::RowsByBlock wanted(plan.blocks(), rows);
  const Index row_count = static_cast<Index>(rows.size()), tokens = dressed.recurrence.tokens;
  const auto target = [&](Index c, Index place) { return out.data() + (c * row_count + place) * out.outerStride(); };

  if (!wanted.blocks.empty()) {
    const Index end = plan.block(wanted.blocks.back().block).end();
    const Index together = 8, groups = (static_cast<Index>(channels.size()) + together - 1) / together;
    executor(groups, [&](Index group) {
      ChannelBlocks<Scalar> channel_blocks(plan);
      BlockScratch<Scalar> scratch(plan);
      RowVector<Scalar> unwanted(tokens);
      std::vector<Scalar*> targets(IMPLICIT_ATTENTION_BLOCK_TOKENS);
      for (Index c = group * together; c < std::min((group + 1) * together, static_cast<Index>(channels.size())); ++c) {
        channel_blocks.load(channels[static_cast<std::size_t>(c)], end);
        for (const auto& block : wanted.blocks) {
          const Index first = plan.block(block.block).first;
          const auto slot = [&](Index place) -> Scalar*& { return targets[static_cast<std::size_t>(rows[static_cast<std::size_t>(place)] - first)]; };
          std::fill(targets.begin(), targets.end(), unwanted.data());
          for (const Index place : block.places) slot(place) = target(c, place);
          detail::write_block_rows(plan, channel_blocks, block.block, scratch, [&](Index i) { return targets[static_cast<std::size_t>(i)]; });
          for (const Index place : block.places)  // a row that is asked for twice
            if (slot(place) != target(c, place)) std::copy(slot(place), slot(place) + tokens, target(c, place));
        }
      }
    });
  }

  if (wanted.single.empty()) return;
  const bool every_channel = detail::is_every(channels, dressed.recurrence.channels);
  const auto walk = [&]<int Width>(Index channel, Index c, Index place) {
    const Index row = rows[static_cast<std::size_t>(place)];
    const Index finished = detail::walk_row_in_pieces<Width>(dressed, row, channel, [&](const detail::RowPiece<Scalar>& piece) {
      for (Index lane = 0; lane < piece.channels; ++lane) {
        Scalar* last = target(c + lane, place) + piece.highest;
        for (Index i = 0; i < piece.count; ++i) last[-i] = piece.entries[i * piece.channels + lane];
      }
    });
    for (Index lane = 0; lane < Width; ++lane) {
      std::fill(target(c + lane, place), target(c + lane, place) + finished, Scalar(0));
      std::fill(target(c + lane, place) + row + 1, target(c + lane, place) + tokens, Scalar(0));
    }
  };
  if (every_channel)
    for_channel_tiles(dressed.recurrence.channels, executor, [&]<int Width>(Index channel) {
      for (const Index place : wanted.single) walk.template operator()<Width>(channel, channel, place);
    });
  else
    executor(static_cast<Index>(channels.size()), [&](Index c) {
      for (const Index place : wanted.single) walk.template operator()<1>(channels[static_cast<std::size_t>(c)], c, place);
    });
}

/// The same where the matrix is given.
template <Real Scalar>
void attention_rows(const DressedExplicit<Scalar>& dressed, const std::vector<Index>& channels, const std::vector<Index>& rows, View<Scalar> out,
                    const Executor& executor) {
  const Index row_count = static_cast<Index>(rows.size());
  executor(static_cast<Index>(channels.size()), [&](Index c) {
    for (Index place = 0; place < row_count; ++place)
      plain_row(dressed, channels[static_cast<std::size_t>(c)], rows[static_cast<std::size_t>(place)],
                out.data() + (c * row_count + place) * out.outerStride());
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
