// Channels joined around a head's matrix: sums as products of matrices, other joins entry by entry in registers.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include <implicit_attention/kernels/head_columns.hpp>
#include <implicit_attention/kernels/reducers.hpp>

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

  HeadReduction(const SurroundedMatrix<Scalar>& surrounded, const Reducer& join)
      : surrounded_(&surrounded),
        join_(join),
        as_product_(std::is_same_v<Reducer, Add> || (std::is_same_v<Reducer, AddAbsolute> && surrounded.width() == 1)) {}

  /// Joins one head's channels to `joined`, (rows, padded tokens); columns that a row does not see hold anything afterwards.
  void join(const std::vector<Index>& channels, const RowRun& run, ConstView<Scalar> rows, Matrix<Scalar>& joined) {
    const SharedMatrix<Scalar>& recurrence = surrounded_->recurrence;
    HeadColumns<Scalar> columns(*surrounded_, channels, !as_product_);
    columns.scales(run.begin, run.end, scales_);
    Index end = 0, begin = recurrence.tokens;
    for (Index i = run.begin; i < run.end; ++i) {
      end = std::max(end, recurrence.last_seen(i) + 1);
      begin = std::min(begin, std::max(recurrence.first_visible(i) - columns.width() + 1, Index(0)));
    }
    for (Index first = begin / lane * lane; first < end; first += stretch_tokens) {
      const Index last = std::min(first + stretch_tokens, end);
      columns.prepare(first, last);
      if (as_product_)
        add_products(columns, run, rows, first, last, joined);
      else
        join_entries(columns, run, rows, first, last, joined);
    }
  }

 private:
  static constexpr bool absolute = std::is_same_v<Reducer, AddAbsolute>;
  [[nodiscard]] static Scalar size(Scalar number) { return absolute ? std::abs(number) : number; }

  void add_products(const HeadColumns<Scalar>& columns, const RowRun& run, ConstView<Scalar> rows, Index first, Index last,
                    Matrix<Scalar>& joined) {
    using Row = Eigen::Array<Scalar, 1, Eigen::Dynamic>;
    const SharedMatrix<Scalar>& recurrence = surrounded_->recurrence;
    const Index count = last - first;
    products_.resize(run.count(), count);
    for (Index d = 0; d < columns.width(); ++d) {
      if constexpr (absolute)
        products_.noalias() = scales_.cwiseAbs() * columns.factors(d, count).cwiseAbs();
      else
        products_.noalias() = scales_ * columns.factors(d, count);
      for (Index i = run.begin; i < run.end; ++i) {
        const Index seen = recurrence.first_visible(i), until = recurrence.last_seen(i);
        const Index from = std::max(first, seen - d), to = std::min(last, until + 1 - d);
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

  void join_entries(const HeadColumns<Scalar>& columns, const RowRun& run, ConstView<Scalar> rows, Index first, Index last,
                    Matrix<Scalar>& joined) {
    const SharedMatrix<Scalar>& recurrence = surrounded_->recurrence;
    const Index width = columns.width();
    for (Index begin = run.begin; begin < run.end; begin += together) {
      const Index end = std::min(begin + together, run.end);
      edges_.clear();
      // Where a path would lead beyond what a row sees, and where the skip is on it: entry by entry, before registers run over them.
      for (Index i = begin; i < end; ++i) {
        const Index seen = recurrence.first_visible(i), until = recurrence.last_seen(i);
        const auto exactly = [&](Index from, Index to) {
          for (Index j = std::max(from, first); j < std::min(to, last); ++j) {
            if (!edges_.empty() && edges_.back().row == i && edges_.back().column >= j) continue;
            Scalar value = joined(i - run.begin, j);
            for (Index c = 0; c < columns.count(); ++c)
              value = join_(value, columns.exact(row_of(rows, i - run.begin), i, j, c, seen, until, scales_(i - run.begin, c)));
            edges_.push_back({i, j, value});
          }
        };
        exactly(std::max(seen - width + 1, Index(0)), seen);
        if (columns.skips()) exactly(i - width + 1, i + 1);
        exactly(std::max(until - width + 2, seen), until + 1);
      }
      if (end - begin == together)
        join_lanes<together>(columns, run, rows, begin, first, last, joined);
      else
        for (Index i = begin; i < end; ++i) join_lanes<1>(columns, run, rows, i, first, last, joined);
      for (const Edge& edge : edges_) joined(edge.row - run.begin, edge.column) = edge.value;
    }
  }

  template <Index Rows>
  void join_lanes(const HeadColumns<Scalar>& columns, const RowRun& run, ConstView<Scalar> rows, Index begin, Index first, Index last,
                  Matrix<Scalar>& joined) const {
    using Lane = Lanes<Scalar, lane>;
    const Index width = columns.width(), stride = rows.outerStride(), channels = columns.count();
    const Scalar *numbers = row_of(rows, begin - run.begin), *scales = &scales_(begin - run.begin, 0);
    Scalar* target = &joined(begin - run.begin, 0);
    for (Index j = first; j < last; j += lane) {
      Lane sums[static_cast<std::size_t>(Rows)], together_sums[static_cast<std::size_t>(Rows)];
      for (Index r = 0; r < Rows; ++r) together_sums[r] = lanes<lane>(target + r * joined.outerStride() + j);
      const Scalar* factors = columns.factor(0, 0, j - first);
      for (Index c = 0; c < channels; ++c) {
        for (Index r = 0; r < Rows; ++r) sums[r].setZero();
        for (Index d = 0; d < width; ++d, factors += lane) {
          const Lane factor = lanes<lane>(factors);
          IMPLICIT_ATTENTION_UNROLL
          for (Index r = 0; r < Rows; ++r) sums[r] += factor * lanes<lane>(numbers + r * stride + j + d);
        }
        IMPLICIT_ATTENTION_UNROLL
        for (Index r = 0; r < Rows; ++r) together_sums[r] = join_(together_sums[r], Lane(sums[r] * scales[r * channels + c]));
      }
      for (Index r = 0; r < Rows; ++r) lanes<lane>(target + r * joined.outerStride() + j) = together_sums[r];
    }
  }

  struct Edge {
    Index row, column;
    Scalar value;
  };
  const SurroundedMatrix<Scalar>* surrounded_;
  Reducer join_;
  bool as_product_;
  Matrix<Scalar> scales_, products_;
  std::vector<Edge> edges_;
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
  detail::each_row_run(recurrence, chosen.heads, rows, width, true, executor,
                       [&](Index head, const detail::RowRun& run, ConstView<Scalar> numbers) {
                         detail::HeadReduction<Scalar, Reducer> reduction(surrounded, reducer);
                         Matrix<Scalar> part = joined.middleRows(run.place, run.count());
                         reduction.join(chosen.channels[static_cast<std::size_t>(head)], run, numbers, part);
                         joined.middleRows(run.place, run.count()) = part;
                       });
  const Scalar unseen = channels.empty() ? initial : reducer(initial, Scalar(0));
  for (std::size_t place = 0; place < rows.size(); ++place) {
    const Index row = static_cast<Index>(place), begin = std::max(recurrence.first_visible(rows[place]) - width + 1, Index(0)),
                end = recurrence.last_seen(rows[place]) + 1;
    out.row(row).setConstant(unseen);
    out.row(row).segment(begin, end - begin) = joined.row(row).segment(begin, end - begin);
  }
}

IMPLICIT_ATTENTION_NAMESPACE_END
