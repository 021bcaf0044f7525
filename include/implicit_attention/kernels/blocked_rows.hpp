// Rows of HeadRecurrences' matrices by whole blocks of tokens: each block's effect on later rows is prepared once (formulation: "Full
// map").
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/kernels/finite_parts.hpp>
#include <implicit_attention/kernels/head_block.hpp>
#include <implicit_attention/kernels/head_walk.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Tokens of a block of a map, and rows that are computed at a time.
constexpr Index map_block_tokens = 64;

/// What a worker keeps between runs of rows.
template <Real Scalar>
struct BlockedRowsScratch {
  Matrix<Scalar> reader, read;
};

/// One head's blocks, as rows need them on their way back over the tokens. A row's reader r is what its output reads of the state at the
/// end of a block. Over the block:
///
///     R[., block] = (r D^T) T        r <- r decay - (r D^T) C           (delta rule: 2 K + block multiply-adds an entry)
///     R[., block] = r W^T            r <- r decay + (r D^T) C           (rank one: 3 K; without removals only W: K)
///
/// The names are those of BlockFactors, with C multiplied by T. The delta rule's D is its W. With rank one, W includes what later removals
/// of the block make of the writes.
template <Real Scalar>
class RowBlocks {
 public:
  RowBlocks(const HeadRecurrence<Scalar>& recurrence, Index head, std::vector<TokenRange> ranges)
      : r_(&recurrence),
        head_(head),
        diagonal_(recurrence.transition == Transition::diagonal),
        delta_(recurrence.transition == Transition::delta),
        ranges_(std::move(ranges)) {
    const Index states = recurrence.state, tokens = ranges_.back().end;
    own_.resize(tokens, map_block_tokens);
    start_.resize(tokens, states);
    write_.resize(tokens, states);
    if (!diagonal_) step_.resize(tokens, states);
    if (!diagonal_ && !delta_) removal_.resize(tokens, states);
    if (delta_) inverse_.resize(tokens, map_block_tokens);
    decay_.setOnes(static_cast<Index>(ranges_.size()), recurrence.decay_by_state() ? states : 1);
    leads_on_.resize(ranges_.size());
    untouched_end_.resize(ranges_.size());
  }

  /// Prepares blocks begin..end-1. Calls for different blocks may run at the same time.
  void prepare(std::size_t begin, std::size_t end) {
    BlockFactors<Scalar> factors(*r_, head_);
    Matrix<Scalar> led_on;
    for (std::size_t b = begin; b < end; ++b) leads_on_[b] = prepare(factors, led_on, b);
  }
  /// After all blocks: where a block has a number that is not finite, prepares its rows before that number as if it were finite.
  void prepare_untouched() {
    std::optional<HeadRecurrence<Scalar>> finite;
    for (std::size_t b = 0; b < ranges_.size(); ++b) {
      const TokenRange& range = ranges_[b];
      if (untouched_end_[b] == range.end) continue;
      Index end = range.first;
      while (end < range.end && is_finite_token(*r_, head_, end)) ++end;
      if (end == range.first || end == range.end) continue;
      if (!finite) finite = finite_part(*r_, head_);
      BlockFactors<Scalar> factors(*finite, 0);
      Matrix<Scalar> led_on;
      static_cast<void>(prepare(factors, led_on, b));  // rows after the number cannot be led over the block
      untouched_end_[b] = std::min(untouched_end_[b], end);
    }
  }

  [[nodiscard]] const TokenRange& range(std::size_t index) const { return ranges_[index]; }
  /// The block that a token is in.
  [[nodiscard]] std::size_t index_of(Index token) const {
    const auto after =
        std::upper_bound(ranges_.begin(), ranges_.end(), token, [](Index t, const TokenRange& range) { return t < range.first; });
    return static_cast<std::size_t>(after - ranges_.begin()) - 1;
  }
  /// Whether later rows can be led back over the block: its factors are finite.
  [[nodiscard]] bool leads_on(std::size_t index) const { return leads_on_[index] != 0; }
  /// The end of the rows of the block whose own entries and readers are prepared.
  [[nodiscard]] Index untouched_end(std::size_t index) const { return untouched_end_[index]; }

  /// Readers of rows begin..end-1 at their blocks' starts, (rows, K).
  [[nodiscard]] ConstView<Scalar> readers(Index begin, Index end) const {
    return {&start_(begin, 0), end - begin, start_.cols(), start_.outerStride()};
  }
  /// Writes the entries of rows begin..end-1 of a block within it into `out`, (rows, tokens).
  void own_entries(std::size_t index, Index begin, Index end, View<Scalar> out) const {
    const TokenRange& range = ranges_[index];
    out.middleCols(range.first, range.count()) = own_.block(begin, 0, end - begin, range.count());
  }
  /// Writes the entries of rows in an earlier block. Where there is `more` before it, also takes the rows' readers, which are in
  /// `scratch.reader` from row `place` on, from the block's end to its start.
  void step_back(std::size_t index, Index place, View<Scalar> out, bool more, BlockedRowsScratch<Scalar>& scratch) const {
    const Index first = ranges_[index].first, n = ranges_[index].count(), count = out.rows();
    View<Scalar> entries(&out(0, first), count, n, out.outerStride());
    View<Scalar> reader(&scratch.reader(place, 0), count, r_->state);
    if (delta_) {
      set_product(scratch.read, reader, write_.middleRows(first, n), Transposed::right);
      set_product(entries, scratch.read, inverse_.block(first, 0, n, n));
    } else {
      set_product(entries, reader, write_.middleRows(first, n), Transposed::right);
      if (!diagonal_ && more) set_product(scratch.read, reader, removal_.middleRows(first, n), Transposed::right);
    }
    if (!more) return;
    if (r_->decay_by_state() && !r_->log_decay.empty())
      reader.array().rowwise() *= decay_.row(static_cast<Index>(index)).array();
    else
      reader *= decay_(static_cast<Index>(index), 0);
    if (delta_)
      subtract_product(reader, scratch.read, step_.middleRows(first, n));
    else if (!diagonal_)
      add_product(reader, scratch.read, step_.middleRows(first, n));
  }

 private:
  /// Copies rows of K numbers; there are no gaps between them on either side.
  static void copy(const Scalar* from, View<Scalar>& to) {
    Eigen::Map<RowVector<Scalar>>(to.data(), to.size()) = Eigen::Map<const RowVector<Scalar>>(from, to.size());
  }

  /// Returns whether later rows can be led over the block. `led_on`: memory for what probes read of writes, with the removals between them.
  [[nodiscard]] bool prepare(BlockFactors<Scalar>& factors, Matrix<Scalar>& led_on, std::size_t index) {
    const TokenRange& range = ranges_[index];
    factors.load(range);
    const Index n = range.count(), first = range.first;
    const auto rows_of = [&](Matrix<Scalar>& matrix, Index columns) {
      return View<Scalar>(&matrix(first, 0), n, columns, matrix.outerStride());
    };
    View<Scalar> own = rows_of(own_, n), start = rows_of(start_, r_->state), write = rows_of(write_, r_->state);
    copy(factors.readers.data(), start);
    copy(factors.writes.data(), write);
    if (!r_->log_decay.empty()) decay_.row(static_cast<Index>(index)) = factors.block.decays().total().matrix().transpose();
    bool finite = all_finite(write);
    if (diagonal_) {
      own = factors.within;
    } else {
      View<Scalar> step = rows_of(step_, r_->state);
      set_product(step, factors.inverse, factors.readers.bottomRows(n));
      if (delta_) {
        rows_of(inverse_, n) = factors.inverse;
        set_product(own, factors.within, factors.inverse);
        subtract_product(start, factors.within, step);
      } else {
        View<Scalar> removal = rows_of(removal_, r_->state);
        copy(factors.removals.data(), removal);
        set_product(led_on, factors.inverse, factors.probe_writes);
        own = factors.within;
        add_product(own, factors.query_removals, led_on);
        add_product(start, factors.query_removals, step);
        add_product(write, led_on, removal, Transposed::left);
        finite = finite && all_finite(write) && all_finite(removal);
      }
      finite = finite && all_finite(step) && all_finite(factors.inverse);
    }
    finite = finite && all_finite(decay_.row(static_cast<Index>(index)));
    untouched_end_[index] = all_finite(own) && all_finite(start) ? range.end : first;
    if (!r_->diagonal.empty())
      for (Index t = 0; t < n; ++t) own(t, t) = r_->diagonal(first + t, head_);
    for (Index t = 0; t < n; ++t) own.row(t).tail(n - 1 - t).setZero();
    return finite;
  }

  const HeadRecurrence<Scalar>* r_;
  Index head_;
  bool diagonal_, delta_;
  std::vector<TokenRange> ranges_;
  Matrix<Scalar> own_;                // (tokens, block): R within the block
  Matrix<Scalar> start_;              // (tokens, K): r at the block's start
  Matrix<Scalar> write_, removal_;    // (tokens, K): W; the delta rule's D, and D
  Matrix<Scalar> step_;               // (tokens, K): C
  Matrix<Scalar> inverse_;            // (tokens, block): T
  Matrix<Scalar> decay_;              // (blocks, K or 1)
  std::vector<char> leads_on_;        // of blocks
  std::vector<Index> untouched_end_;  // of blocks
};

/// Writes rows of one head, each by a walk over the tokens.
template <Real Scalar>
void walk_rows(const HeadRecurrence<Scalar>& recurrence, Index head, Index begin, Index end, View<Scalar> out) {
  for (Index row = begin; row < end; ++row) walk_heads(recurrence, &head, 1, row, View<Scalar>(&out(row - begin, 0), 1, recurrence.tokens));
}

/// Writes rows begin..end-1 of one head and one document, which begins at `first`. Products with triangular factors would spread a NaN to
/// entries that do not depend on it: rows that a NaN can reach are walked token by token. Columns that a row does not see hold anything
/// afterwards.
template <Real Scalar>
void blocked_rows(const HeadRecurrence<Scalar>& recurrence, Index head, const RowBlocks<Scalar>& blocks, Index first, Index begin,
                  Index end, View<Scalar> out, BlockedRowsScratch<Scalar>& scratch) {
  const std::size_t nearest = blocks.index_of(begin), last = blocks.index_of(end - 1);
  std::size_t oldest = nearest, newest = nearest;  // the blocks around the nearest one that rows can be led over
  while (blocks.range(oldest).first > first && blocks.leads_on(oldest - 1)) --oldest;
  while (newest < last && blocks.leads_on(newest)) ++newest;
  const bool leads_to_first = blocks.range(oldest).first <= first;
  const auto untouched = [&](std::size_t b, Index row) { return leads_to_first && b <= newest && row < blocks.untouched_end(b); };
  if (!untouched(nearest, begin)) return walk_rows(recurrence, head, begin, end, out);
  scratch.reader = blocks.readers(begin, end);
  const auto rows_from = [&](Index low, Index high) {
    return View<Scalar>(&out(low - begin, 0), high - low, out.cols(), out.outerStride());
  };
  const auto step_back = [&](std::size_t b, Index low, View<Scalar> rows) {
    blocks.step_back(b, low - begin, rows, blocks.range(b).first > first, scratch);
  };
  // The rows of each block, back to the block of the first row; from there on all rows together.
  for (std::size_t b = nearest; b <= last; ++b) {
    const Index low = std::max(begin, blocks.range(b).first), high = std::min(end, blocks.range(b).end);
    const View<Scalar> rows = rows_from(low, high);
    blocks.own_entries(b, low, high, rows);
    for (std::size_t a = b; a > nearest; --a) step_back(a - 1, low, rows);
  }
  for (std::size_t a = nearest; blocks.range(a).first > first; --a) step_back(a - 1, begin, out);
  for (std::size_t b = nearest; b <= last; ++b)
    for (Index row = std::max(begin, blocks.range(b).first); row < std::min(end, blocks.range(b).end); ++row)
      if (!untouched(b, row)) walk_rows(recurrence, head, row, row + 1, rows_from(row, row + 1));
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
