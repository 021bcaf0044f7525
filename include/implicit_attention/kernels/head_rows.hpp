// Many rows of HeadRecurrences' matrices, as products of matrices: what full maps and reductions are made of (formulation: "Full map").
#pragma once

#include <algorithm>
#include <optional>
#include <type_traits>
#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/kernels/finite_parts.hpp>
#include <implicit_attention/kernels/head_walk.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Tokens of a block of a map, and rows that are made at a time.
constexpr Index map_block_tokens = 64;
/// Below this many, rows are walked one by one.
constexpr Index rows_worth_preparing = 8;

/// What a worker keeps between runs of rows.
template <Real Scalar>
struct HeadRowsScratch {
  Matrix<Scalar> reader, read, product, between;
  Index product_group = -1, product_begin = 0, product_end = 0;
  Eigen::Array<Scalar, 1, Eigen::Dynamic> columns, first_to_row;
  Eigen::Array<double, 1, Eigen::Dynamic> sums;
};

/// Rows of a few neighbouring heads. With a diagonal transition of one decay a head, R = (Q K^T) o decays, and heads of a group share Q K^T.
/// Otherwise each block's effect on later rows is prepared once, and a row walks back over whole blocks, r being its state at a block's end:
///
///     R[., block] = (r D^T) T        r <- r decay - (r D^T) C           (delta rule: 2 K + block multiply-adds an entry)
///     R[., block] = r W^T            r <- r decay + (r D^T) C           (rank one: 3 K; without removals only W: K)
template <Real Scalar>
class HeadRows {
 public:
  /// Prepares for `row_count` rows in all, none beyond token `end`.
  HeadRows(const HeadRecurrence<Scalar>& recurrence, Index first_head, Index head_count, Index row_count, Index end,
           const Executor& executor)
      : r_(&recurrence), first_head_(first_head) {
    diagonal_ = recurrence.transition == Transition::diagonal;
    delta_ = recurrence.transition == Transition::delta;
    shared_ = is_shared(recurrence);
    prepared_ = !shared_ && row_count >= rows_worth_preparing;
    if (!prepared_) return;
    ranges_ = token_ranges(recurrence, map_block_tokens);
    while (ranges_.back().first >= end) ranges_.pop_back();
    heads_.resize(static_cast<std::size_t>(head_count));
    const Index count = static_cast<Index>(ranges_.size()), slices = (count + blocks_of_a_slice - 1) / blocks_of_a_slice;
    for (Factors& factors : heads_) resize(factors, ranges_.back().end, count);
    executor(head_count * slices, [&](Index item) {
      const Index head = item / slices, begin = item % slices * blocks_of_a_slice;
      Factors& factors = heads_[static_cast<std::size_t>(head)];
      HeadBlock<Scalar> block(recurrence, first_head + head);
      Work work;
      for (Index b = begin; b < std::min(begin + blocks_of_a_slice, count); ++b)
        factors.seen_finite[static_cast<std::size_t>(b)] = prepare(block, b, factors, work);
    });
    executor(head_count, [&](Index head) { prepare_untouched(heads_[static_cast<std::size_t>(head)], first_head + head); });
  }

  /// Rows begin..end-1 of a head, (end - begin, tokens), zeros where nothing is seen.
  void rows(Index head, Index begin, Index end, View<Scalar> out, HeadRowsScratch<Scalar>& scratch) const {
    for (Index row = begin; row < end;) {
      const Index first = r_->first_visible(row);
      Index stop = row + 1;
      while (stop < end && !r_->starts_at(stop)) ++stop;  // rows of one document
      View<Scalar> part(&out(row - begin, 0), stop - row, r_->tokens, out.outerStride());
      if (shared_)
        shared_rows(head, first, row, stop, part, scratch);
      else
        own_rows(head, first, row, stop, part, scratch);
      for (Index i = row; i < stop; ++i) {
        part.row(i - row).head(first).setZero();
        part.row(i - row).tail(r_->tokens - 1 - i).setZero();
      }
      row = stop;
    }
  }

  /// How many heads to compute single rows of together, when `row_count` rows are wanted.
  [[nodiscard]] static Index heads_at_once(const HeadRecurrence<Scalar>& recurrence, Index row_count) {
    return is_shared(recurrence) || row_count >= rows_worth_preparing ? 1 : heads_walked_together;
  }
  /// One row of `count` heads, a row of `out` each; where heads_at_once is more than 1.
  void row(const Index* heads, Index count, Index row, View<Scalar> out) const {
    const Index first = walk_heads(*r_, heads, count, row, out);
    out.leftCols(first).setZero();
    out.rightCols(r_->tokens - 1 - row).setZero();
  }

 private:
  static constexpr Index blocks_of_a_slice = 8;
  /// Fewer rows than these take the sums of so many nearest tokens in double: see exact_product.
  static constexpr Index few_rows = 6, nearest_tokens = 16;

  /// One head's; a row a token.
  struct Factors {
    Matrix<Scalar> own;                ///< (tokens, block): R within the block
    Matrix<Scalar> start;              ///< (tokens, K): r at the block's start
    Matrix<Scalar> write;              ///< (tokens, K): W; the delta rule's D
    Matrix<Scalar> removal;            ///< (tokens, K): D
    Matrix<Scalar> step;               ///< (tokens, K): C
    Matrix<Scalar> inverse;            ///< (tokens, block): T
    Matrix<Scalar> decay;              ///< (blocks, K or 1)
    std::vector<char> seen_finite;     ///< of blocks: whether later rows can use the prepared step across it
    std::vector<Index> untouched_end;  ///< of blocks: the end of the rows that `own` and `start` hold
  };
  struct Work {
    Matrix<Scalar> within, removed, probe_writes, readers, probes, inverse, product;
  };

  /// Whether heads of a group share the products that their rows are made of.
  [[nodiscard]] static bool is_shared(const HeadRecurrence<Scalar>& recurrence) {
    return recurrence.transition == Transition::diagonal && (recurrence.log_decay.empty() || !recurrence.decay_by_state());
  }

  [[nodiscard]] std::size_t index_of(Index token) const {
    const auto after =
        std::upper_bound(ranges_.begin(), ranges_.end(), token, [](Index t, const TokenRange& range) { return t < range.first; });
    return static_cast<std::size_t>(after - ranges_.begin()) - 1;
  }

  void resize(Factors& factors, Index tokens, Index blocks) const {
    const Index states = r_->state;
    factors.own.resize(tokens, map_block_tokens);
    factors.start.resize(tokens, states);
    factors.write.resize(tokens, states);
    if (!diagonal_) factors.step.resize(tokens, states);
    if (!diagonal_ && !delta_) factors.removal.resize(tokens, states);
    if (delta_) factors.inverse.resize(tokens, map_block_tokens);
    factors.decay.setOnes(blocks, r_->decay_by_state() ? states : 1);
    factors.seen_finite.resize(static_cast<std::size_t>(blocks));
    factors.untouched_end.resize(static_cast<std::size_t>(blocks));
  }

  /// Returns whether later rows can use the prepared step across the block.
  [[nodiscard]] bool prepare(HeadBlock<Scalar>& block, Index index, Factors& factors, Work& work) const {
    const TokenRange& range = ranges_[static_cast<std::size_t>(index)];
    block.load(range);
    const Index n = range.count(), first = range.first, late = r_->read_before_update ? 1 : 0, probe_late = delta_ ? 0 : 1;
    const auto rows_of = [&](Matrix<Scalar>& matrix, Index columns) {
      return View<Scalar>(&matrix(first, 0), n, columns, matrix.outerStride());
    };
    View<Scalar> own = rows_of(factors.own, n), start = rows_of(factors.start, r_->state), write = rows_of(factors.write, r_->state);
    const bool scaled = !r_->key_scale.empty();
    block.products(block.query(), block.key(), late, work.within);
    if (scaled) work.within.array().rowwise() *= block.scale().transpose();
    block.from_start(block.query(), late, start);
    block.to_end(block.key(), write);
    if (scaled) write.array().colwise() *= block.scale();
    if (!r_->log_decay.empty()) factors.decay.row(index) = block.total().matrix().transpose();
    bool finite = all_finite(write);
    if (diagonal_) {
      own = work.within;
    } else {
      View<Scalar> step = rows_of(factors.step, r_->state);
      block.products(block.probe(), block.key(), probe_late, work.probe_writes);
      if (scaled) work.probe_writes.array().rowwise() *= block.scale().transpose();
      work.probes.resize(n, r_->state);
      block.from_start(block.probe(), probe_late, View<Scalar>(work.probes));
      if (delta_) {
        invert_unit_lower<Scalar>(-work.probe_writes, work.inverse);
        rows_of(factors.inverse, n) = work.inverse;
        set_product(step, work.inverse, work.probes);
        set_product(own, work.within, work.inverse);
        subtract_product(start, work.within, step);
      } else {
        View<Scalar> removal = rows_of(factors.removal, r_->state);
        block.products(block.probe(), block.removal(), probe_late, work.removed);
        invert_unit_lower(work.removed, work.inverse);
        block.products(block.query(), block.removal(), late, work.removed);
        block.to_end(block.removal(), removal);
        set_product(step, work.inverse, work.probes);
        set_product(work.product, work.inverse, work.probe_writes);
        own = work.within;
        add_product(own, work.removed, work.product);
        add_product(start, work.removed, step);
        add_product(write, work.product, removal, Transposed::left);
        finite = finite && all_finite(write) && all_finite(removal);
      }
      finite = finite && all_finite(step) && all_finite(work.inverse);
    }
    finite = finite && all_finite(factors.decay.row(index));
    factors.untouched_end[static_cast<std::size_t>(index)] = all_finite(own) && all_finite(start) ? range.end : first;
    if (!r_->diagonal.empty())
      for (Index t = 0; t < n; ++t) own(t, t) = r_->diagonal(first + t, first_head_ + head_of(factors));
    for (Index t = 0; t < n; ++t) own.row(t).tail(n - 1 - t).setZero();
    return finite;
  }
  /// The own rows of a head's blocks before their first number that is not finite, as if that were another one.
  void prepare_untouched(Factors& factors, Index head) const {
    std::optional<HeadRecurrence<Scalar>> finite;
    Work work;
    for (std::size_t b = 0; b < ranges_.size(); ++b) {
      const TokenRange& range = ranges_[b];
      if (factors.untouched_end[b] == range.end) continue;
      Index end = range.first;
      while (end < range.end && is_finite_token(*r_, head, end)) ++end;
      if (end == range.first || end == range.end) continue;
      if (!finite) finite = finite_part(*r_, head);
      HeadBlock<Scalar> block(*finite, 0);
      static_cast<void>(prepare(block, static_cast<Index>(b), factors, work));  // rows behind the number are not led over the block
      factors.untouched_end[b] = std::min(factors.untouched_end[b], end);
    }
  }
  [[nodiscard]] Index head_of(const Factors& factors) const { return static_cast<Index>(&factors - heads_.data()); }

  /// Rows begin..end-1 of one document, which begins at `first`.
  void own_rows(Index head, Index first, Index begin, Index end, View<Scalar> out, HeadRowsScratch<Scalar>& scratch) const {
    if (!prepared_) return walk(head, begin, end, out);
    const Factors& factors = heads_[static_cast<std::size_t>(head - first_head_)];
    const std::size_t nearest = index_of(begin), last = index_of(end - 1);
    // Triangular factors and steps would carry a NaN to where it does not belong: some rows, or all, are walked.
    std::size_t oldest = nearest, newest = nearest;  // of the blocks around the nearest one that rows may be led over
    while (ranges_[oldest].first > first && factors.seen_finite[oldest - 1] != 0) --oldest;
    while (newest < last && factors.seen_finite[newest] != 0) ++newest;
    const bool seen_finite = ranges_[oldest].first <= first;
    const auto untouched = [&](std::size_t b, Index row) { return seen_finite && b <= newest && row < factors.untouched_end[b]; };
    if (!untouched(nearest, begin)) return walk(head, begin, end, out);
    scratch.reader = factors.start.middleRows(begin, end - begin);
    // Each block's own rows, back to the first block of all; from there on all rows together.
    for (std::size_t b = nearest; b <= last; ++b) {
      const Index low = std::max(begin, ranges_[b].first), high = std::min(end, ranges_[b].end);
      View<Scalar> rows(&out(low - begin, 0), high - low, r_->tokens, out.outerStride());
      rows.middleCols(ranges_[b].first, ranges_[b].count()) = factors.own.block(low, 0, high - low, ranges_[b].count());
      for (std::size_t a = b; a > nearest; --a) step_back(factors, a - 1, low - begin, rows, ranges_[a - 1].first > first, scratch);
    }
    for (std::size_t a = nearest; ranges_[a].first > first; --a) step_back(factors, a - 1, 0, out, ranges_[a - 1].first > first, scratch);
    for (std::size_t b = nearest; b <= last; ++b)
      for (Index row = std::max(begin, ranges_[b].first); row < std::min(end, ranges_[b].end); ++row)
        if (!untouched(b, row)) walk(head, row, row + 1, View<Scalar>(&out(row - begin, 0), 1, r_->tokens, out.outerStride()));
  }

  /// Entries of rows within block `index`; and, where there is more before it, the rows' readers from its end to its start.
  void step_back(const Factors& factors, std::size_t index, Index place, View<Scalar> out, bool more,
                 HeadRowsScratch<Scalar>& scratch) const {
    const Index first = ranges_[index].first, n = ranges_[index].count(), count = out.rows();
    View<Scalar> entries(&out(0, first), count, n, out.outerStride());
    View<Scalar> reader(&scratch.reader(place, 0), count, r_->state);
    if (delta_) {
      set_product(scratch.read, reader, factors.write.middleRows(first, n), Transposed::right);
      set_product(entries, scratch.read, factors.inverse.block(first, 0, n, n));
    } else {
      set_product(entries, reader, factors.write.middleRows(first, n), Transposed::right);
      if (!diagonal_ && more) set_product(scratch.read, reader, factors.removal.middleRows(first, n), Transposed::right);
    }
    if (!more) return;
    if (r_->decay_by_state() && !r_->log_decay.empty())
      reader.array().rowwise() *= factors.decay.row(static_cast<Index>(index)).array();
    else
      reader *= factors.decay(static_cast<Index>(index), 0);
    if (delta_)
      subtract_product(reader, scratch.read, factors.step.middleRows(first, n));
    else if (!diagonal_)
      add_product(reader, scratch.read, factors.step.middleRows(first, n));
  }

  void walk(Index head, Index begin, Index end, View<Scalar> out) const {
    for (Index row = begin; row < end; ++row) walk_heads(*r_, &head, 1, row, View<Scalar>(&out(row - begin, 0), 1, r_->tokens));
  }

  /// A row that forgets quickly holds little more than its query times the nearest keys. Where such a product cancels, the rounding of its sum
  /// is large beside it: few rows, of which this is no great part of the work, take the nearest tokens' sums in double.
  [[nodiscard]] Scalar exact_product(const Scalar* query, const Scalar* key) const {
    constexpr Index together = 8;  // sums that do not wait for each other
    double sums[static_cast<std::size_t>(together)] = {};
    Index n = 0;
    for (; n + together <= r_->state; n += together)
      for (Index i = 0; i < together; ++i) sums[i] += static_cast<double>(query[n + i]) * static_cast<double>(key[n + i]);
    for (; n < r_->state; ++n) sums[0] += static_cast<double>(query[n]) * static_cast<double>(key[n]);
    return static_cast<Scalar>(((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7])));
  }

  /// Rows begin..end-1 of one document, which begins at `first`: products with all keys, times a factor a row and one a column.
  void shared_rows(Index head, Index first, Index begin, Index end, View<Scalar> out, HeadRowsScratch<Scalar>& scratch) const {
    const Index states = r_->state, group = r_->group(head), count = end - begin, late = r_->read_before_update ? 1 : 0;
    if (scratch.product_group != group || scratch.product_begin != begin || scratch.product_end != end) {
      set_product(scratch.product, r_->query.matrix().block(begin, group * states, count, states),
                  r_->key.matrix().block(first, group * states, end - first, states), Transposed::right);
      for (Index row = begin; row < end && count < few_rows && std::is_same_v<Scalar, float>; ++row)
        for (Index token = std::max(first, row + 1 - nearest_tokens); token <= row; ++token)
          scratch.product(row - begin, token - first) =
              exact_product(r_->query.row(row) + group * states, r_->key.row(token) + group * states);
      scratch.product_group = group;
      scratch.product_begin = begin;
      scratch.product_end = end;
    }
    using Row = Eigen::Array<Scalar, 1, Eigen::Dynamic>;
    const auto log_decay = [&](Index token) {
      return r_->log_decay.empty() ? 0.0 : static_cast<double>(r_->log_decay(r_->log_decay.rows() == 1 ? 0 : token, head));
    };
    // Decays from each earlier token to the first row.
    scratch.columns.setOnes(end - first);
    if (!r_->log_decay.empty()) {
      double sum = 0;
      for (Index token = begin - 1; token >= first; --token) {
        scratch.columns[token - first] = static_cast<Scalar>(sum);
        sum += log_decay(token);
      }
      exponentiate(scratch.columns.data(), begin - first);
    }
    if (!r_->key_scale.empty())
      for (Index token = first; token < end; ++token) scratch.columns[token - first] *= r_->key_scale(token, head);
    // Decays from the first row to each one, and of all pairs of rows: (rows, rows), in logarithms first.
    const bool decays = !r_->log_decay.empty();
    scratch.first_to_row.setOnes(count);
    if (decays) {
      scratch.sums.setZero(count);
      scratch.between.setZero(count, count);
      double sum = 0;
      for (Index row = begin; row < end; ++row) {
        const Index own = row + 1 - late - begin;  // the tokens of the run that the row reads
        if (own > 0) {
          const double log = log_decay(row - late);
          sum += log;
          scratch.sums.head(own - 1) += log;
          scratch.sums[own - 1] = 0;
          scratch.between.row(row - begin).head(own) = scratch.sums.head(own).matrix().template cast<Scalar>();
          exponentiate(&scratch.between(row - begin, 0), own);
        }
        scratch.first_to_row[row - begin] = static_cast<Scalar>(sum);
      }
      exponentiate(scratch.first_to_row.data(), count);
    }
    for (Index row = begin; row < end; ++row) {
      const Index before = begin - first, own = row + 1 - late - begin;
      Eigen::Map<Row> entries(&out(row - begin, first), row + 1 - first);
      const Eigen::Map<const Row> products(&scratch.product(row - begin, 0), row + 1 - first);
      const Eigen::Map<const Row> columns(scratch.columns.data(), row + 1 - first);
      entries.head(before) = products.head(before) * columns.head(before) * scratch.first_to_row[row - begin];
      entries.segment(before, own) = products.segment(before, own) * columns.segment(before, own);
      if (decays) entries.segment(before, own) *= scratch.between.row(row - begin).head(own).array();
      // Without an own entry here, read_before_update, there is a diagonal.
      if (!r_->diagonal.empty()) entries[row - first] = r_->diagonal(row, head);
    }
  }

  const HeadRecurrence<Scalar>* r_;
  Index first_head_;
  bool diagonal_ = false, delta_ = false, shared_ = false, prepared_ = false;
  std::vector<TokenRange> ranges_;
  std::vector<Factors> heads_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
