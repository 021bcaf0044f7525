// Channels joined around a head's matrix: sums as products of matrices, other joins entry by entry in registers.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include <implicit_attention/core/matrix_product.hpp>
#include <implicit_attention/kernels/head_columns.hpp>
#include <implicit_attention/kernels/reducers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A run of rows of one head's matrix, and what is needed to join the head's channels.
template <Real Scalar>
struct JoinedRun {
  const RowRun& run;
  const View<Scalar>& rows;    ///< of the head's matrix; their diagonal is changed during a join and restored
  const View<Scalar>& joined;  ///< the result, (rows, padded tokens)
  const SeenTokens& seen;
  const Matrix<Scalar>& scales;  ///< G, (rows, channels)
  const HeadColumns<Scalar>& columns;
};

/// Joins by one product a tap: with G the scales (rows, channels) and F_d the factors of tap d (channels, tokens),
/// sum_e A_e[i,j] = sum_d R[i,j+d] (G F_d)[i,j]. So does the sum of absolute values without a convolution: |R| o (|G| |F|).
template <Real Scalar, class Reducer>
class HeadProductJoin {
 public:
  [[nodiscard]] static bool fits(const SurroundedMatrix<Scalar>& surrounded) {
    return std::is_same_v<Reducer, Add> || (absolute && surrounded.width() == 1);
  }

  /// Begins with a run of rows.
  void start(const JoinedRun<Scalar>& of) {
    if constexpr (absolute) scale_sizes_ = of.scales.cwiseAbs();
  }

  /// Joins columns first..last-1.
  void operator()(const JoinedRun<Scalar>& of, Index first, Index last) {
    products_.resize(of.run.count(), last - first);
    for (Index d = 0; d < of.columns.width(); ++d) {
      multiply(of, d, first, last);
      for (Index i = of.run.begin; i < of.run.end; ++i) add_row(of, d, i, first, last);
    }
  }

 private:
  static constexpr bool absolute = std::is_same_v<Reducer, AddAbsolute>;
  static constexpr Index slab_rows = 32;

  /// products_ = G F_d of the columns that rows see.
  void multiply(const JoinedRun<Scalar>& of, Index d, Index first, Index last) {
    const Index count = last - first, row_count = of.run.count();
    if constexpr (absolute) factor_sizes_ = of.columns.factors(d, count).cwiseAbs();
    const ConstView<Scalar> factors = absolute ? ConstView<Scalar>(factor_sizes_) : of.columns.factors(d, count);
    // All rows at once where all see the whole stretch; else a few at a time, up to the last column that any of them sees.
    for (Index row = 0, rows_at_a_time = 0; row < row_count; row += rows_at_a_time) {
      rows_at_a_time = of.seen[row].last + 1 >= last ? row_count - row : std::min(slab_rows, row_count - row);
      Index seen = 0;
      for (Index r = row; r < row + rows_at_a_time; ++r) seen = std::max(seen, of.seen[r].last + 1 - first);
      seen = std::min(seen, count);
      View<Scalar> products(products_.data() + row * count, rows_at_a_time, seen, count);
      set_product(products, (absolute ? scale_sizes_ : of.scales).middleRows(row, rows_at_a_time), factors.leftCols(seen));
    }
  }

  /// Adds R[i, j + d] products_[i, j] to the joined row i.
  void add_row(const JoinedRun<Scalar>& of, Index d, Index i, Index first, Index last) {
    using Row = Eigen::Array<Scalar, 1, Eigen::Dynamic>;
    const Index place = i - of.run.begin, from = std::max(first, of.seen[place].first - d),
                to = std::min(last, of.seen[place].last + 1 - d);
    if (from >= to) return;
    const Eigen::Map<const Row> entries(row_of(of.rows, place) + from + d, to - from);
    const Eigen::Map<const Row> weights(&products_(place, from - first), to - from);
    Eigen::Map<Row> sums(row_of(of.joined, place) + from, to - from);
    const Index j = i - d;  // the column whose tap meets the diagonal, to which every channel adds its skip
    if (!of.columns.skips() || j < from || j >= to) return add(entries, weights, sums);
    Scalar sum = 0;
    for (Index c = 0; c < of.columns.count(); ++c)
      sum += size(of.scales(place, c) * (of.rows(place, i) + of.columns.skip(c)) * *of.columns.factor(c, d, j - first));
    const Scalar before = sums[j - from];
    add(entries, weights, sums);
    sums[j - from] = before + sum;
  }
  template <class Entries, class Sums>
  static void add(const Entries& entries, const Entries& weights, Sums& sums) {
    if constexpr (absolute)
      sums += entries.abs() * weights;
    else
      sums += entries * weights;
  }
  [[nodiscard]] static Scalar size(Scalar number) { return absolute ? std::abs(number) : number; }

  Matrix<Scalar> scale_sizes_, factor_sizes_, products_;
};

/// Joins channel after channel, entry by entry in registers.
template <Real Scalar, class Reducer>
class HeadEntryJoin {
 public:
  explicit HeadEntryJoin(const Reducer& join) : join_(join) {}

  /// Joins columns first..last-1; columns that a row does not see hold anything afterwards.
  void operator()(const JoinedRun<Scalar>& of, Index first, Index last) {
    const RowRun& run = of.run;
    for (Index begin = run.begin; begin < run.end; begin += together) {
      const Index end = std::min(begin + together, run.end);
      edges_.clear();
      if (!of.columns.finite()) join_exactly(of, begin, end, first, last);
      Index stop = first;  // what any of these rows sees
      for (Index i = begin; i < end; ++i) stop = std::max(stop, std::min(last, of.seen[i - run.begin].last + 1));
      if (end - begin == together)
        join_rows<together>(of, begin, first, stop);
      else
        for (Index i = begin; i < end; ++i) join_rows<1>(of, i, first, stop);
      for (const Edge& edge : edges_) row_of(of.joined, edge.row - run.begin)[edge.column] = edge.value;
    }
  }

 private:
  static constexpr int lane = register_lanes<Scalar>;
  static constexpr Index together = 4;  ///< rows that share the factors that are read
  struct Edge {
    Index row, column;
    Scalar value;
  };

  /// Entries some of whose taps lie outside of what the row sees. The factor there may not be finite, and 0 times it not 0: these entries
  /// are joined one by one, without those taps, before whole registers are.
  void join_exactly(const JoinedRun<Scalar>& of, Index begin, Index end, Index first, Index last) {
    const HeadColumns<Scalar>& columns = of.columns;
    const Index width = columns.width();
    for (Index i = begin; i < end; ++i) {
      const Index place = i - of.run.begin;
      const SeenTokens::Row& seen = of.seen[place];
      Scalar* row = row_of(of.rows, place);
      for (Index j = std::max(first, seen.first - width + 1); j < std::min(last, seen.last + 1); ++j) {
        if (j >= seen.first && j + width - 1 <= seen.last) continue;
        Scalar value = of.joined(place, j);
        const Scalar own = row[i];
        for (Index c = 0; c < columns.count(); ++c) {
          if (columns.skips()) row[i] = own + columns.skip(c);
          value = join_(value, columns.exact(row, j, c, seen.first, seen.last, of.scales(place, c)));
        }
        row[i] = own;
        edges_.push_back({i, j, value});
      }
    }
  }

  /// Rows from `begin` on: registers that the diagonal reaches are joined with each channel's skip on it.
  template <Index Rows>
  void join_rows(const JoinedRun<Scalar>& of, Index begin, Index first, Index last) const {
    const HeadColumns<Scalar>& columns = of.columns;
    const auto to_lane = [&](Index column) { return first + (std::clamp(column, first, last) - first) / lane * lane; };
    const auto join = [&]<bool Skip>(Index from, Index to) {
      if (from >= to) return;
      if (columns.width() == 4)  // nearly all models' convolution: unrolled
        join_lanes<Rows, 4, Skip>(of, begin, first, from, to);
      else
        join_lanes<Rows, 0, Skip>(of, begin, first, from, to);
    };
    if (!columns.skips()) return join.template operator()<false>(first, last);
    const Index from = to_lane(begin - columns.width() + 1), to = std::min(to_lane(begin + Rows - 1) + lane, last);
    join.template operator()<false>(first, from);
    join.template operator()<true>(from, to);
    join.template operator()<false>(std::max(to, from), last);
  }
  template <Index Rows, Index Width, bool Skip>
  IMPLICIT_ATTENTION_FLATTEN void join_lanes(const JoinedRun<Scalar>& of, Index begin, Index first, Index from, Index to) const {
    const HeadColumns<Scalar>& columns = of.columns;
    using Lane = Lanes<Scalar, lane>;
    const Index width = Width > 0 ? Width : columns.width(), stride = of.rows.outerStride(), channels = columns.count(),
                target_stride = of.joined.outerStride(), place = begin - of.run.begin;
    Scalar* numbers = row_of(of.rows, place);
    const Scalar* scales = of.scales.data() + place * channels;
    Scalar* target = row_of(of.joined, place);
    Scalar diagonal[static_cast<std::size_t>(Rows)] = {};
    if constexpr (Skip)
      for (Index r = 0; r < Rows; ++r) diagonal[r] = numbers[r * stride + begin + r];
    for (Index j = from; j < to; j += lane) {
      Lane sums[static_cast<std::size_t>(Rows)], all[static_cast<std::size_t>(Rows)];
      IMPLICIT_ATTENTION_UNROLL
      for (Index r = 0; r < Rows; ++r) all[r] = lanes<lane>(target + r * target_stride + j);
      const Scalar* factors = columns.factor(0, 0, j - first);
      for (Index c = 0; c < channels; ++c, factors += width * lane) {
        if constexpr (Skip)
          for (Index r = 0; r < Rows; ++r) numbers[r * stride + begin + r] = diagonal[r] + columns.skip(c);
        add_taps<Rows>(factors, lane, numbers + j, stride, width, sums);
        IMPLICIT_ATTENTION_UNROLL
        for (Index r = 0; r < Rows; ++r) all[r] = join_(all[r], Lane(sums[r] * scales[r * channels + c]));
      }
      IMPLICIT_ATTENTION_UNROLL
      for (Index r = 0; r < Rows; ++r) lanes<lane>(target + r * target_stride + j) = all[r];
    }
    if constexpr (Skip)
      for (Index r = 0; r < Rows; ++r) numbers[r * stride + begin + r] = diagonal[r];
  }

  Reducer join_;
  std::vector<Edge> edges_;
};

/// Joins runs of rows over channels, head after head: by products where that is possible, else entry by entry.
template <Real Scalar, class Reducer>
class HeadReduction {
 public:
  HeadReduction(const SurroundedMatrix<Scalar>& surrounded, const FiniteColumns<Scalar>& finite, const ChannelsByHead& chosen,
                const Reducer& join, View<Scalar> out)
      : recurrence_(&surrounded.recurrence),
        finite_(&finite),
        chosen_(&chosen),
        out_(out),
        as_product_(HeadProductJoin<Scalar, Reducer>::fits(surrounded)),
        finite_columns_(finite.part, stretch_tokens, !as_product_),
        all_columns_(surrounded, stretch_tokens, !as_product_),
        by_entries_(join) {}

  /// Rows that are joined together. The more there are, the smaller the share of a product that packs its factors.
  [[nodiscard]] static Index rows_of_a_run(const SurroundedMatrix<Scalar>& surrounded) {
    return HeadProductJoin<Scalar, Reducer>::fits(surrounded) ? 2 * map_block_tokens : map_block_tokens;
  }

  /// Joins one head's channels to the run's rows; columns that a row does not see hold anything afterwards. They are joined in memory with
  /// padding, where kernels may write beyond a row's end, and stay there until finish().
  void operator()(Index head, const RowRun& run, View<Scalar> rows) {
    if (joined_.rows() == 0) {
      place_ = run.place;
      joined_.resize(run.count(), rows.cols());
      joined_.leftCols(out_.cols()) = out_.middleRows(place_, run.count());
      joined_.rightCols(rows.cols() - out_.cols()).setZero();
    }
    const auto join = [&](HeadColumns<Scalar>& columns, const RowRun& part, const View<Scalar>& part_rows) {
      columns.choose(chosen_->channels[static_cast<std::size_t>(head)]);
      join_run(columns, part, part_rows);
    };
    // Each column of a product is computed by itself: one that is not finite spoils no other.
    if (as_product_) return join(all_columns_, run, rows);
    finite_->split(finite_columns_, all_columns_, run, rows, join);
  }
  /// After each batch of a run's heads.
  void finish(const RowRun& run) {
    out_.middleRows(place_, run.count()) = joined_.leftCols(out_.cols());
    joined_.resize(0, 0);
  }

 private:
  void join_run(HeadColumns<Scalar>& columns, const RowRun& run, const View<Scalar>& rows) {
    const View<Scalar> joined(joined_.data() + (run.place - place_) * joined_.cols(), run.count(), joined_.cols());
    columns.scales(run.begin, run.end, scales_);
    seen_.look_up(*recurrence_, run, columns.width(), register_lanes<Scalar>);
    const JoinedRun<Scalar> of{run, rows, joined, seen_, scales_, columns};
    if (as_product_) by_products_.start(of);
    for (Index first = seen_.begin; first < seen_.end; first += stretch_tokens) {
      const Index last = std::min(first + stretch_tokens, seen_.end);
      columns.prepare(first, last);
      if (as_product_)
        by_products_(of, first, last);
      else
        by_entries_(of, first, last);
    }
  }

  const SharedMatrix<Scalar>* recurrence_;
  const FiniteColumns<Scalar>* finite_;
  const ChannelsByHead* chosen_;
  View<Scalar> out_;
  Matrix<Scalar> joined_;  // (rows of the run, padded tokens)
  Index place_ = 0;        // of the run's first row
  bool as_product_;
  HeadColumns<Scalar> finite_columns_, all_columns_;
  HeadProductJoin<Scalar, Reducer> by_products_;
  HeadEntryJoin<Scalar, Reducer> by_entries_;
  Matrix<Scalar> scales_;
  SeenTokens seen_;
};

}  // namespace detail

/// joined[k] = reducer(joined[k], value of each chosen channel), (rows, tokens); see reduced_rows of a diagonal recurrence. Workers share
/// the rows, so that channels are joined in one order.
template <Real Scalar, class Reducer>
void reduced_rows(const SurroundedMatrix<Scalar>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& rows,
                  View<Scalar> out, const Executor& executor, const Reducer& reducer, Scalar initial) {
  const SharedMatrix<Scalar>& recurrence = surrounded.recurrence;
  const Index tokens = recurrence.tokens, width = surrounded.width();
  const detail::ChannelsByHead chosen(recurrence, channels);
  out.setConstant(initial);
  const detail::FiniteColumns<Scalar> finite(surrounded, channels, rows);
  using Worker = detail::HeadReduction<Scalar, Reducer>;
  detail::each_row_run(recurrence, chosen.heads, rows, width, true, Worker::rows_of_a_run(surrounded), executor,
                       [&] { return Worker(surrounded, finite, chosen, reducer, out); });
  const Scalar unseen = channels.empty() ? initial : reducer(initial, Scalar(0));
  for (std::size_t place = 0; place < rows.size(); ++place) {
    const Index row = static_cast<Index>(place), begin = std::max(recurrence.first_visible(rows[place]) - width + 1, Index(0));
    out.row(row).head(begin).setConstant(unseen);
    out.row(row).tail(tokens - 1 - recurrence.last_seen(rows[place])).setConstant(unseen);
  }
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
