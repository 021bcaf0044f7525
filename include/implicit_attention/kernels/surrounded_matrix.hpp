// What surrounds a head's matrix, channel by channel: A_e = diag(gate_e) (R_h(e) + diag(skip_e)) diag(act_e) Conv_e. The matrix's rows are
// made once a head and used by all its channels, whatever kind of recurrence it comes from.
#pragma once

#include <algorithm>
#include <vector>

#include <implicit_attention/kernels/convolution.hpp>
#include <implicit_attention/kernels/head_columns.hpp>
#include <implicit_attention/kernels/head_reductions.hpp>
#include <implicit_attention/kernels/row_writer.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <Real Scalar>
void head_rows(const SharedMatrix<Scalar>& matrix, const std::vector<Index>& heads, const std::vector<Index>& rows, View<Scalar> out,
               const Executor& executor) {
  std::vector<Index> sorted = heads;
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  const Index count = static_cast<Index>(rows.size());
  const detail::RowWriter<Scalar> writer(out.size());
  detail::each_row_run(matrix, sorted, rows, 1, false, executor, [&](Index head, const detail::RowRun& run, ConstView<Scalar> numbers) {
    for (std::size_t place = 0; place < heads.size(); ++place)
      if (heads[place] == head)
        for (Index i = 0; i < run.count(); ++i)
          writer.copy(detail::row_of(numbers, i), matrix.tokens, &out(static_cast<Index>(place) * count + run.place + i, 0));
    writer.finish();
  });
}

namespace detail {

/// The convolution and what stands before it, for the kernels that know nothing of the recurrence behind them.
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

/// Writes the rows of a run for all chosen channels of one head.
template <Real Scalar>
class HeadMapWriter {
 public:
  static constexpr int lane = register_lanes<Scalar>;
  static constexpr Index together = 4;  ///< rows that share what is read of the factors

  HeadMapWriter(const SurroundedMatrix<Scalar>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& places,
                Index row_count, View<Scalar> out)
      : recurrence_(&surrounded.recurrence),
        places_(&places),
        row_count_(row_count),
        out_(out),
        columns_(surrounded, channels, false),
        writer_(out.size()),
        numbers_(together, stretch_tokens + lane) {}

  void write(const RowRun& run, ConstView<Scalar> rows) {
    const Index tokens = recurrence_->tokens, width = columns_.width();
    columns_.scales(run.begin, run.end, scales_);
    Index end = 0, begin = tokens;  // of what any row of the run has
    for (Index i = run.begin; i < run.end; ++i) {
      end = std::max(end, recurrence_->last_seen(i) + 1);
      begin = std::min(begin, std::max(recurrence_->first_visible(i) - width + 1, Index(0)));
    }
    begin = begin / stretch_tokens * stretch_tokens;
    for (Index first = begin; first < end; first += stretch_tokens) {
      const Index last = std::min(first + stretch_tokens, end);
      columns_.prepare(first, last);
      for (Index c = 0; c < columns_.count(); ++c)
        for (Index i = run.begin; i < run.end; i += together) write_rows(run, rows, c, i, std::min(i + together, run.end), first, last);
    }
    for (Index c = 0; c < columns_.count(); ++c)
      for (Index i = run.begin; i < run.end; ++i) {
        writer_.zeros(begin, target(run, c, i));
        writer_.zeros(tokens - end, target(run, c, i) + end);
      }
    writer_.finish();
  }

 private:
  [[nodiscard]] Scalar* target(const RowRun& run, Index c, Index row) {
    return &out_((*places_)[static_cast<std::size_t>(c)] * row_count_ + run.place + row - run.begin, 0);
  }

  /// Columns first..last-1 of rows begin..end-1 of one channel.
  void write_rows(const RowRun& run, ConstView<Scalar> rows, Index c, Index begin, Index end, Index first, Index last) {
    const Index width = columns_.width();
    const Scalar* numbers = row_of(rows, begin - run.begin) + first;
    const Scalar* scales = &scales_(begin - run.begin, c);
    if (end - begin == together)
      multiply<together>(numbers, rows.outerStride(), scales, c, last - first);
    else
      for (Index i = begin; i < end; ++i)
        multiply<1>(numbers + (i - begin) * rows.outerStride(), 0, scales + (i - begin) * scales_.cols(), c, last - first, i - begin);
    for (Index i = begin; i < end; ++i) {
      const Index seen = recurrence_->first_visible(i), until = recurrence_->last_seen(i);
      const Scalar* row = row_of(rows, i - run.begin);
      Scalar* entries = &numbers_(i - begin, 0) - first;
      const Scalar scale = scales_(i - run.begin, c);
      const auto exactly = [&](Index from, Index to) {
        for (Index j = std::max(from, first); j < std::min(to, last); ++j) entries[j] = columns_.exact(row, i, j, c, seen, until, scale);
      };
      const auto zero = [&](Index from, Index to) {
        if (std::max(from, first) < std::min(to, last)) std::fill(entries + std::max(from, first), entries + std::min(to, last), Scalar(0));
      };
      // Where a path would lead beyond what the row sees, and where the skip is on it.
      zero(first, seen - width + 1);
      exactly(seen - width + 1, seen);
      if (columns_.skips()) exactly(i - width + 1, i + 1);
      exactly(std::max(until - width + 2, seen), until + 1);
      zero(until + 1, last);
      writer_.copy(entries + first, last - first, target(run, c, i) + first);
    }
  }

  template <Index Rows>
  void multiply(const Scalar* numbers, Index stride, const Scalar* scales, Index c, Index count, Index place = 0) {
    using Lane = Lanes<Scalar, lane>;
    const Index width = columns_.width(), scale_stride = scales_.cols();
    for (Index j = 0; j < count; j += lane) {
      Lane sums[static_cast<std::size_t>(Rows)];
      for (Index r = 0; r < Rows; ++r) sums[r].setZero();
      for (Index d = 0; d < width; ++d) {
        const Lane factor = lanes<lane>(columns_.factor(c, d, j));
        IMPLICIT_ATTENTION_UNROLL
        for (Index r = 0; r < Rows; ++r) sums[r] += factor * lanes<lane>(numbers + r * stride + j + d);
      }
      IMPLICIT_ATTENTION_UNROLL
      for (Index r = 0; r < Rows; ++r) lanes<lane>(&numbers_(place + r, j)) = sums[r] * scales[r * scale_stride];
    }
  }

  const SharedMatrix<Scalar>* recurrence_;
  const std::vector<Index>* places_;
  Index row_count_;
  View<Scalar> out_;
  HeadColumns<Scalar> columns_;
  RowWriter<Scalar> writer_;
  Matrix<Scalar> scales_, numbers_;
};

}  // namespace detail

/// Rows of the chosen channels' matrices into `out`, (channels * rows, tokens). A few heads' runs of rows exist at a time for each worker.
template <Real Scalar>
void attention_rows(const SurroundedMatrix<Scalar>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& rows,
                    View<Scalar> out, const Executor& executor) {
  const detail::ChannelsByHead chosen(surrounded.recurrence, channels);
  detail::each_row_run(surrounded.recurrence, chosen.heads, rows, surrounded.width(), false, executor,
                       [&](Index head, const detail::RowRun& run, ConstView<Scalar> numbers) {
                         const auto own = static_cast<std::size_t>(head);
                         detail::HeadMapWriter<Scalar>(surrounded, chosen.channels[own], chosen.places[own],
                                                       static_cast<Index>(rows.size()), out)
                             .write(run, numbers);
                       });
}

/// out = A x + (what the bias, the tail and the initial state give), (tokens, channels).
template <Real Scalar>
void scan(const SurroundedMatrix<Scalar>& surrounded, const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor,
          View<Scalar>* final_state = nullptr) {
  const SharedMatrix<Scalar>& recurrence = surrounded.recurrence;
  Matrix<Scalar> inner(recurrence.tokens, recurrence.channels);
  convolve(detail::convolution_part(surrounded), input, View<Scalar>(inner), executor);
  if (!surrounded.activation.empty()) inner.array() *= surrounded.activation.matrix().array();
  matrix_apply(recurrence, Array<Scalar>::view(inner), input.initial_state, out, executor, final_state);
  if (!surrounded.skip.empty()) out.array() += inner.array().rowwise() * surrounded.skip.matrix().row(0).array();
  if (!surrounded.gate.empty()) out.array() *= surrounded.gate.matrix().array();
}

/// out = A^T g, (tokens, channels).
template <Real Scalar>
void scan_transposed(const SurroundedMatrix<Scalar>& surrounded, ConstView<Scalar> g, View<Scalar> out, const Executor& executor) {
  const SharedMatrix<Scalar>& recurrence = surrounded.recurrence;
  Matrix<Scalar> weighted = g;
  if (!surrounded.gate.empty()) weighted.array() *= surrounded.gate.matrix().array();
  Matrix<Scalar> inner(recurrence.tokens, recurrence.channels);
  matrix_apply_transposed(recurrence, ConstView<Scalar>(weighted), View<Scalar>(inner), executor);
  if (!surrounded.skip.empty()) inner.array() += weighted.array().rowwise() * surrounded.skip.matrix().row(0).array();
  if (!surrounded.activation.empty()) inner.array() *= surrounded.activation.matrix().array();
  if (surrounded.taps.empty())
    out = inner;
  else
    convolve_transposed<Scalar>(surrounded.taps.matrix(), surrounded.convolution_starts, inner, out, executor);
  if (!surrounded.column_weights.empty()) out.array() *= surrounded.column_weights.matrix().array();
}

IMPLICIT_ATTENTION_NAMESPACE_END
