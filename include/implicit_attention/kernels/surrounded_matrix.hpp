// What surrounds a head's matrix, channel by channel: A_e = diag(gate_e) (R_h(e) + diag(skip_e)) diag(act_e) Conv_e. The rows of
// the matrix are computed once a head and used by all its channels, for every kind of recurrence.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/kernels/convolution.hpp>
#include <implicit_attention/kernels/four_tap_rows.hpp>
#include <implicit_attention/kernels/head_columns.hpp>
#include <implicit_attention/kernels/head_reductions.hpp>
#include <implicit_attention/kernels/row_writer.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real Scalar>
void head_rows(const SharedMatrix<Scalar>& matrix, const std::vector<Index>& heads, const std::vector<Index>& rows, View<Scalar> out,
               const Executor& executor) {
  std::vector<Index> sorted = heads;
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  const Index count = static_cast<Index>(rows.size());
  const detail::RowWriter<Scalar> writer(out.size());
  const auto copy = [&](Index head, const detail::RowRun& run, View<Scalar> numbers) {
    for (std::size_t place = 0; place < heads.size(); ++place)
      if (heads[place] == head)
        for (Index i = 0; i < run.count(); ++i)
          writer.copy(detail::row_of(numbers, i), matrix.tokens, &out(static_cast<Index>(place) * count + run.place + i, 0));
    writer.finish();
  };
  detail::each_row_run(matrix, sorted, rows, 1, false, 2 * detail::map_block_tokens, executor, [&] { return copy; });
}

namespace detail {

/// The convolution and what comes before it, for the kernels that do not depend on the recurrence that follows.
template <class Recurrence, Real Scalar = typename Recurrence::ScalarType>
[[nodiscard]] SurroundedDiagonal<Scalar> convolution_part(const Surrounded<Recurrence>& surrounded) {
  SurroundedDiagonal<Scalar> part;
  part.recurrence.tokens = surrounded.recurrence.tokens;
  part.recurrence.channels = surrounded.recurrence.channels;
  part.taps = surrounded.taps;
  part.convolution_starts = surrounded.convolution_starts;
  part.column_weights = surrounded.column_weights;
  return part;
}

/// Writes the rows of a run for all chosen channels of one head, one row after the other: writing several rows at the same time reaches
/// only a fraction of memory's rate.
template <Real Scalar>
class HeadMapWriter {
 public:
  static constexpr int lane = register_lanes<Scalar>;
  static constexpr Index stretch = 1024;  ///< tokens of a row that are computed at a time: they and their factors fit into the first cache

  HeadMapWriter(const SurroundedMatrix<Scalar>& surrounded, const FiniteColumns<Scalar>& finite, const ChannelsByHead& chosen,
                Index row_count, View<Scalar> out)
      : recurrence_(&surrounded.recurrence),
        finite_(&finite),
        chosen_(&chosen),
        row_count_(row_count),
        stretch_(std::min(stretch, (recurrence_->tokens + lane - 1) / lane * lane)),
        out_(out),
        finite_columns_(finite.part, stretch_, false, FourTapRows<Scalar>::available && surrounded.width() == 4),
        all_columns_(surrounded, stretch_, false, FourTapRows<Scalar>::available && surrounded.width() == 4),
        writer_(out.size()),
        numbers_(stretch_ + lane) {}

  void operator()(Index head, const RowRun& run, View<Scalar> rows) {
    places_ = &chosen_->places[static_cast<std::size_t>(head)];
    finite_->split(finite_columns_, all_columns_, run, rows,
                   [&](HeadColumns<Scalar>& columns, const RowRun& part, const View<Scalar>& part_rows) {
                     columns.choose(chosen_->channels[static_cast<std::size_t>(head)]);
                     columns_ = &columns;
                     write(part, part_rows);
                   });
    writer_.finish();
  }

 private:
  /// Columns that are computed, and those that are written, with zeros at the ends.
  struct Stretch {
    Index first, last, from, to;
  };

  void write(const RowRun& run, const View<Scalar>& rows) {
    const Index tokens = recurrence_->tokens;
    columns_->scales(run.begin, run.end, scales_);
    seen_.look_up(*recurrence_, run, columns_->width(), lane);
    for (Index first = seen_.begin; first < seen_.end; first += stretch_) {
      const Index last = std::min(first + stretch_, seen_.end);
      columns_->prepare(first, last);
      const Stretch of{first, last, first == seen_.begin ? 0 : first, last == seen_.end ? tokens : last};
      for (Index c = 0; c < columns_->count(); ++c) {
        if (columns_->by_taps()) four_taps_.choose(*columns_, c);
        for (Index i = run.begin; i < run.end; ++i)
          write_row(row_of(rows, i - run.begin), c, i, seen_[i - run.begin], scales_(i - run.begin, c), target(run, c, i), of);
      }
    }
  }

  [[nodiscard]] Scalar* target(const RowRun& run, Index c, Index row) {
    return out_.data() + ((*places_)[static_cast<std::size_t>(c)] * row_count_ + run.place + row - run.begin) * out_.outerStride();
  }

  /// A stretch of row i of one channel, into the result's row `to`.
  void write_row(Scalar* row, Index c, Index i, const SeenTokens::Row& seen, Scalar scale, Scalar* to, const Stretch& of) {
    const Index first = of.first, end = std::clamp(seen.last + 1, first, of.last), count = end - first;
    // A line that is not streamed is read before it is written: prefetched here, so that streaming does not wait for it.
    writer_.ask_for_last(to + of.to);
    // Whole lines, columns from..stop-1, are written as they are computed; the rest goes through `numbers_`, with zeros up to a line's end.
    Index from = 0, stop = 0, made = end;
    if (count > 0) {
      made = std::min(end + rest_of_line(to + end), of.last);
      const bool finite = columns_->finite() && std::isfinite(scale);
      if (finite && columns_->by_taps() && four_taps_.takes(scale)) {
        if (writer_.streams(to)) {
          from = std::min(rest_of_line(to + first), made - first);
          stop = from + (made - first - from) / RowWriter<Scalar>::line * RowWriter<Scalar>::line;
        }
        if constexpr (FourTapRows<Scalar>::available)
          four_taps_.write(row + first, scale, columns_->skips() ? i - first : Index(-1), count, from, stop, made - first, numbers_.data(),
                           to + first);
      } else {
        // The skip belongs to this channel's diagonal alone; the convolution carries that of row i to columns i - width + 1 .. i.
        const bool skips = columns_->skips() && i >= first && i < of.last + columns_->width() - 1;
        const Scalar diagonal = skips ? row[i] : Scalar(0);
        if (skips) row[i] += columns_->skip(c);
        multiply(row + first, c, scale, count);
        if (!finite) write_exactly(row, seen, c, first, end, scale);
        if (skips) row[i] = diagonal;
        // The products there are 0 times a factor: -0, or NaN.
        std::fill(&numbers_[count], &numbers_[count] + (made - end), Scalar(0));
      }
    }
    writer_.zeros(first - of.from, to + of.from);
    writer_.copy(numbers_.data(), from, to + first);
    writer_.copy(numbers_.data() + stop, made - first - stop, to + first + stop);
    writer_.zeros_to_end(of.to - made, to + made);
  }

  /// Entries some of whose taps lie outside of what the row sees: a factor there, or the row's own scale, may not be finite, and 0 times it
  /// not 0.
  void write_exactly(const Scalar* row, const SeenTokens::Row& seen, Index c, Index first, Index last, Scalar scale) {
    const Index width = columns_->width();
    for (Index j = first; j < last; ++j) {
      if (j + width <= seen.first || j > seen.last)
        numbers_[j - first] = Scalar(0);
      else if (j < seen.first || j + width - 1 > seen.last)
        numbers_[j - first] = columns_->exact(row, j, c, seen.first, seen.last, scale);
    }
  }

  /// Entries 0 .. count - 1 of a row into `numbers_`.
  void multiply(const Scalar* row, Index c, Scalar scale, Index count) {
    Scalar* const numbers = numbers_.data();
    if constexpr (FourTapRows<Scalar>::available) {
      if (columns_->by_taps()) {
        four_taps_.write(row, Scalar(1), -1, count, 0, 0, count, numbers, nullptr);
        for (Index j = 0; j < count; ++j) numbers[j] *= scale;
        return;
      }
    }
    for (Index j = 0; j < count; j += lane) {
      Lanes<Scalar, lane> sum;
      add_taps<1>(columns_->factor(c, 0, j), columns_->tap_stride(), row + j, 0, columns_->width(), &sum);
      lanes<lane>(numbers + j) = sum * scale;
    }
  }
  const SharedMatrix<Scalar>* recurrence_;
  const FiniteColumns<Scalar>* finite_;
  const ChannelsByHead* chosen_;
  const std::vector<Index>* places_ = nullptr;
  Index row_count_, stretch_;
  View<Scalar> out_;
  HeadColumns<Scalar> finite_columns_, all_columns_;
  HeadColumns<Scalar>* columns_ = nullptr;  ///< the one of these that the current rows use
  RowWriter<Scalar> writer_;
  Matrix<Scalar> scales_;
  RowVector<Scalar> numbers_;
  FourTapRows<Scalar> four_taps_;
  SeenTokens seen_;
};

}  // namespace detail

/// Rows of the chosen channels' matrices into `out`, (channels * rows, tokens). A few heads' runs of rows exist at a time for each worker.
template <Real Scalar>
void attention_rows(const SurroundedMatrix<Scalar>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& rows,
                    View<Scalar> out, const Executor& executor) {
  const detail::ChannelsByHead chosen(surrounded.recurrence, channels);
  const detail::FiniteColumns<Scalar> finite(surrounded, channels, rows);
  detail::each_row_run(surrounded.recurrence, chosen.heads, rows, surrounded.width(), false, 2 * detail::map_block_tokens, executor,
                       [&] { return detail::HeadMapWriter<Scalar>(surrounded, finite, chosen, static_cast<Index>(rows.size()), out); });
}

/// out = A x + (what the bias, the tail and the initial state give), (tokens, channels).
template <Real Scalar>
void scan(const SurroundedMatrix<Scalar>& surrounded, const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor,
          View<Scalar>* final_state = nullptr) {
  const SharedMatrix<Scalar>& recurrence = surrounded.recurrence;
  Matrix<Scalar> inner = large_matrix<Scalar>(recurrence.tokens, recurrence.channels, "an activation");
  convolve(detail::convolution_part(surrounded), input, View<Scalar>(inner), executor);
  if (!surrounded.activation.empty()) inner.array() *= surrounded.activation.matrix().array();
  matrix_apply(recurrence, Array<Scalar>::view(inner), input.initial_state, out, executor, final_state);
  if (!surrounded.skip.empty()) out.array() += inner.array().rowwise() * surrounded.skip.matrix().row(0).array();
  if (!surrounded.gate.empty()) out.array() *= surrounded.gate.matrix().array();
}

/// out = A^T g, (tokens, channels). `out` may be `g` itself, and must not overlap it otherwise.
template <Real Scalar>
void scan_transposed(const SurroundedMatrix<Scalar>& surrounded, ConstView<Scalar> g, View<Scalar> out, const Executor& executor) {
  const SharedMatrix<Scalar>& recurrence = surrounded.recurrence;
  check_shape("scan_transposed", "out", out, g.rows(), g.cols(), "(tokens, channels)");
  // `out` holds gate * g until the result is written: to touch new memory of this size for the first time costs as much as a scan.
  if (!surrounded.gate.empty()) out = g.cwiseProduct(surrounded.gate.matrix());
  const ConstView<Scalar> weighted = surrounded.gate.empty() ? g : ConstView<Scalar>(out);
  Matrix<Scalar> inner = large_matrix<Scalar>(recurrence.tokens, recurrence.channels, "an activation");
  matrix_apply_transposed(recurrence, weighted, View<Scalar>(inner), executor);
  if (!surrounded.skip.empty()) inner.array() += weighted.array().rowwise() * surrounded.skip.matrix().row(0).array();
  if (!surrounded.activation.empty()) inner.array() *= surrounded.activation.matrix().array();
  if (surrounded.taps.empty())
    out = inner;
  else
    convolve_transposed<Scalar>(surrounded.taps.matrix(), surrounded.convolution_starts, inner, out, executor);
  if (!surrounded.column_weights.empty()) out.array() *= surrounded.column_weights.matrix().array();
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
