// Channels joined around a head's matrix: sums as products of matrices, other joins entry by entry in registers.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include <implicit_attention/core/matrix_product.hpp>
#include <implicit_attention/kernels/head_columns.hpp>
#include <implicit_attention/kernels/reducers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Joins a run of rows over channels, head after head.
///
/// A sum takes one product a tap: with G the scales (rows, channels) and F_d the factors of tap d (channels, tokens),
/// sum_e A_e[i,j] = sum_d R[i,j+d] (G F_d)[i,j]. So does the sum of absolute values without a convolution: |R| o (|G| |F|).
template <Real Scalar, class Reducer>
class HeadReduction {
 public:
  static constexpr int lane = register_lanes<Scalar>;
  static constexpr Index together = 4;  ///< rows that share what is read of the factors

  HeadReduction(const SurroundedMatrix<Scalar>& surrounded, const FiniteColumns<Scalar>& finite, const ChannelsByHead& chosen,
                const Reducer& join, Matrix<Scalar>& joined)
      : surrounded_(&surrounded),
        finite_(&finite),
        chosen_(&chosen),
        joined_(&joined),
        join_(join),
        as_product_(is_product(surrounded)),
        finite_columns_(finite.part, stretch_tokens, !as_product_),
        all_columns_(surrounded, stretch_tokens, !as_product_) {}

  /// Rows that are joined together: the more, the less of a product goes into packing its factors.
  [[nodiscard]] static Index rows_of_a_run(const SurroundedMatrix<Scalar>& surrounded) {
    return is_product(surrounded) ? 2 * map_block_tokens : map_block_tokens;
  }

  /// Joins one head's channels to the run's rows of `joined`, (rows, padded tokens); columns that a row does not see hold anything
  /// afterwards.
  void operator()(Index head, const RowRun& run, View<Scalar> rows) {
    const auto join = [&](HeadColumns<Scalar>& columns, const RowRun& part, const View<Scalar>& part_rows) {
      columns.choose(chosen_->channels[static_cast<std::size_t>(head)]);
      columns_ = &columns;
      join_run(part, part_rows);
    };
    // Columns of a product are made each by itself, and all rows by one product.
    if (as_product_) return join(all_columns_, run, rows);
    finite_->split(finite_columns_, all_columns_, run, rows, join);
  }

 private:
  void join_run(const RowRun& run, const View<Scalar>& rows) {
    const SharedMatrix<Scalar>& recurrence = surrounded_->recurrence;
    View<Scalar> joined(joined_->data() + run.place * joined_->cols(), run.count(), joined_->cols());
    columns_->scales(run.begin, run.end, scales_);
    if constexpr (absolute) scale_sizes_ = scales_.cwiseAbs();
    Index end = 0, begin = recurrence.tokens;
    seen_.clear();
    for (Index i = run.begin; i < run.end; ++i) {
      seen_.push_back({recurrence.first_visible(i), recurrence.last_seen(i)});
      end = std::max(end, seen_.back().last + 1);
      begin = std::min(begin, std::max(seen_.back().first - columns_->width() + 1, Index(0)));
    }
    for (Index first = begin / lane * lane; first < end; first += stretch_tokens) {
      const Index last = std::min(first + stretch_tokens, end);
      columns_->prepare(first, last);
      if (as_product_)
        add_products(run, rows, first, last, joined);
      else
        join_entries(run, rows, first, last, joined);
    }
  }

  [[nodiscard]] static bool is_product(const SurroundedMatrix<Scalar>& surrounded) {
    return std::is_same_v<Reducer, Add> || (std::is_same_v<Reducer, AddAbsolute> && surrounded.width() == 1);
  }
  static constexpr bool absolute = std::is_same_v<Reducer, AddAbsolute>;
  [[nodiscard]] static Scalar size(Scalar number) { return absolute ? std::abs(number) : number; }

  static constexpr Index slab_rows = 32;
  struct Seen {
    Index first, last;
  };

  void add_products(const RowRun& run, const View<Scalar>& rows, Index first, Index last, View<Scalar>& joined) {
    using Row = Eigen::Array<Scalar, 1, Eigen::Dynamic>;
    const HeadColumns<Scalar>& columns = *columns_;
    const Index count = last - first;
    products_.resize(run.count(), count);
    for (Index d = 0; d < columns.width(); ++d) {
      if constexpr (absolute) factor_sizes_ = columns.factors(d, count).cwiseAbs();
      const ConstView<Scalar> factors = absolute ? ConstView<Scalar>(factor_sizes_) : columns.factors(d, count);
      // All rows at once where all see the whole stretch; else a few at a time, up to the last column that any of them sees.
      for (Index row = 0, rows_at_a_time = 0; row < run.count(); row += rows_at_a_time) {
        const auto seen_count = [&](Index begin, Index end) {
          Index columns_seen = 0;
          for (Index r = begin; r < end; ++r) columns_seen = std::max(columns_seen, seen_[static_cast<std::size_t>(r)].last + 1 - first);
          return std::clamp(columns_seen, Index(0), count);
        };
        rows_at_a_time = seen_[static_cast<std::size_t>(row)].last + 1 >= last ? run.count() - row : std::min(slab_rows, run.count() - row);
        const Index seen = seen_count(row, row + rows_at_a_time);
        View<Scalar> products(products_.data() + row * count, rows_at_a_time, seen, count);
        set_product(products, (absolute ? scale_sizes_ : scales_).middleRows(row, rows_at_a_time), factors.leftCols(seen));
      }
      for (Index i = run.begin; i < run.end; ++i) {
        const Seen& seen = seen_[static_cast<std::size_t>(i - run.begin)];
        const Index from = std::max(first, seen.first - d), to = std::min(last, seen.last + 1 - d);
        if (from >= to) continue;
        const Eigen::Map<const Row> entries(row_of(rows, i - run.begin) + from + d, to - from);
        const Eigen::Map<const Row> weights(&products_(i - run.begin, from - first), to - from);
        Eigen::Map<Row> sums(&joined(i - run.begin, from), to - from);
        if (columns.skips() && i - d >= from && i - d < to) {
          // The diagonal has the skip of every channel.
          const Index j = i - d;
          Scalar sum = 0;
          for (Index c = 0; c < columns.count(); ++c)
            sum += size(scales_(i - run.begin, c) * (rows(i - run.begin, i) + columns.skip(c)) * *columns.factor(c, d, j - first));
          const Scalar before = sums[j - from];
          add(entries, weights, sums);
          sums[j - from] = before + sum;
        } else {
          add(entries, weights, sums);
        }
      }
    }
  }
  template <class Entries, class Sums>
  static void add(const Entries& entries, const Entries& weights, Sums& sums) {
    if constexpr (absolute)
      sums += entries.abs() * weights;
    else
      sums += entries * weights;
  }

  void join_entries(const RowRun& run, const View<Scalar>& rows, Index first, Index last, View<Scalar>& joined) {
    for (Index begin = run.begin; begin < run.end; begin += together) {
      const Index end = std::min(begin + together, run.end);
      edges_.clear();
      if (!columns_->finite()) join_exactly(run, rows, begin, end, first, last, joined);
      Index stop = first;  // what any of these rows sees
      for (Index i = begin; i < end; ++i) stop = std::max(stop, std::min(last, seen_[static_cast<std::size_t>(i - run.begin)].last + 1));
      if (end - begin == together)
        join_rows_of<together>(run, rows, begin, first, stop, joined);
      else
        for (Index i = begin; i < end; ++i) join_rows_of<1>(run, rows, i, first, stop, joined);
      for (const Edge& edge : edges_) joined(edge.row - run.begin, edge.column) = edge.value;
    }
  }

  /// Where a path would lead beyond what a row sees: its factor may not be finite, and 0 times it not 0. Joined entry by entry, before
  /// registers run over them.
  void join_exactly(const RowRun& run, const View<Scalar>& rows, Index begin, Index end, Index first, Index last,
                    const View<Scalar>& joined) {
    const Index width = columns_->width();
    for (Index i = begin; i < end; ++i) {
      const Seen& seen = seen_[static_cast<std::size_t>(i - run.begin)];
      Scalar* row = row_of(rows, i - run.begin);
      for (Index j = std::max(first, seen.first - width + 1); j < std::min(last, seen.last + 1); ++j) {
        if (j >= seen.first && j + width - 1 <= seen.last) continue;
        Scalar value = joined(i - run.begin, j);
        const Scalar own = row[i];
        for (Index c = 0; c < columns_->count(); ++c) {
          if (columns_->skips()) row[i] = own + columns_->skip(c);
          value = join_(value, columns_->exact(row, j, c, seen.first, seen.last, scales_(i - run.begin, c)));
        }
        row[i] = own;
        edges_.push_back({i, j, value});
      }
    }
  }

  /// Rows from `begin` on: registers that the diagonal reaches are joined with each channel's skip on it.
  template <Index Rows>
  void join_rows_of(const RowRun& run, const View<Scalar>& rows, Index begin, Index first, Index last, View<Scalar>& joined) const {
    const auto to_lane = [&](Index column) { return first + (std::clamp(column, first, last) - first) / lane * lane; };
    const auto join = [&]<bool Skip>(Index from, Index to) {
      if (from >= to) return;
      if (columns_->width() == 4)  // nearly all models' convolution: unrolled
        join_lanes<Rows, 4, Skip>(run, rows, begin, first, from, to, joined);
      else
        join_lanes<Rows, 0, Skip>(run, rows, begin, first, from, to, joined);
    };
    if (!columns_->skips()) return join.template operator()<false>(first, last);
    const Index from = to_lane(begin - columns_->width() + 1), to = std::min(to_lane(begin + Rows - 1) + lane, last);
    join.template operator()<false>(first, from);
    join.template operator()<true>(from, to);
    join.template operator()<false>(std::max(to, from), last);
  }
  template <Index Rows, Index Width, bool Skip>
  IMPLICIT_ATTENTION_FLATTEN void join_lanes(const RowRun& run, const View<Scalar>& rows, Index begin, Index first, Index from, Index to,
                                             View<Scalar>& joined) const {
    using Lane = Lanes<Scalar, lane>;
    const Index width = Width > 0 ? Width : columns_->width(), stride = rows.outerStride(), channels = columns_->count(),
                target_stride = joined.outerStride();
    Scalar* numbers = row_of(rows, begin - run.begin);
    const Scalar* scales = scales_.data() + (begin - run.begin) * channels;
    Scalar* target = joined.data() + (begin - run.begin) * target_stride;
    Scalar diagonal[static_cast<std::size_t>(Rows)] = {};
    if constexpr (Skip)
      for (Index r = 0; r < Rows; ++r) diagonal[r] = numbers[r * stride + begin + r];
    for (Index j = from; j < to; j += lane) {
      Lane sums[static_cast<std::size_t>(Rows)], all[static_cast<std::size_t>(Rows)];
      IMPLICIT_ATTENTION_UNROLL
      for (Index r = 0; r < Rows; ++r) all[r] = lanes<lane>(target + r * target_stride + j);
      const Scalar* factors = columns_->factor(0, 0, j - first);
      for (Index c = 0; c < channels; ++c, factors += width * lane) {
        if constexpr (Skip)
          for (Index r = 0; r < Rows; ++r) numbers[r * stride + begin + r] = diagonal[r] + columns_->skip(c);
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

  struct Edge {
    Index row, column;
    Scalar value;
  };
  const SurroundedMatrix<Scalar>* surrounded_;
  const FiniteColumns<Scalar>* finite_;
  const ChannelsByHead* chosen_;
  Matrix<Scalar>* joined_;
  Reducer join_;
  bool as_product_;
  HeadColumns<Scalar> finite_columns_, all_columns_;
  HeadColumns<Scalar>* columns_ = nullptr;  ///< of these, the rows' at hand
  Matrix<Scalar> scales_, scale_sizes_, factor_sizes_, products_;
  std::vector<Edge> edges_;
  std::vector<Seen> seen_;
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
  // Each run's rows are joined aside, where kernels may run over their ends, and stay there from batch of heads to batch of heads.
  Matrix<Scalar> joined(static_cast<Index>(rows.size()), detail::padded<Scalar>(tokens, width));
  joined.setConstant(initial);
  const detail::FiniteColumns<Scalar> finite(surrounded, channels, rows);
  using Worker = detail::HeadReduction<Scalar, Reducer>;
  detail::each_row_run(recurrence, chosen.heads, rows, width, true, Worker::rows_of_a_run(surrounded), executor,
                       [&] { return Worker(surrounded, finite, chosen, reducer, joined); });
  const Scalar unseen = channels.empty() ? initial : reducer(initial, Scalar(0));
  for (std::size_t place = 0; place < rows.size(); ++place) {
    const Index row = static_cast<Index>(place), begin = std::max(recurrence.first_visible(rows[place]) - width + 1, Index(0)),
                end = recurrence.last_seen(rows[place]) + 1;
    out.row(row).setConstant(unseen);
    out.row(row).segment(begin, end - begin) = joined.row(row).segment(begin, end - begin);
  }
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
