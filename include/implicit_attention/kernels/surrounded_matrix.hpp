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

  HeadMapWriter(const SurroundedMatrix<Scalar>& surrounded, const ChannelsByHead& chosen, Index row_count, View<Scalar> out)
      : recurrence_(&surrounded.recurrence),
        chosen_(&chosen),
        row_count_(row_count),
        out_(out),
        columns_(surrounded, false),
        writer_(out.size()),
        numbers_(together, stretch_tokens + lane) {}

  void operator()(Index head, const RowRun& run, View<Scalar> rows) {
    const Index tokens = recurrence_->tokens, width = columns_.width();
    places_ = &chosen_->places[static_cast<std::size_t>(head)];
    columns_.choose(chosen_->channels[static_cast<std::size_t>(head)]);
    columns_.scales(run.begin, run.end, scales_);
    Index end = 0, begin = tokens;  // of what any row of the run has
    seen_.clear();
    for (Index i = run.begin; i < run.end; ++i) {
      seen_.push_back({recurrence_->first_visible(i), recurrence_->last_seen(i)});
      end = std::max(end, seen_.back().last + 1);
      begin = std::min(begin, std::max(seen_.back().first - width + 1, Index(0)));
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
  struct Seen {
    Index first, last;
  };

  [[nodiscard]] Scalar* target(const RowRun& run, Index c, Index row) {
    return out_.data() + ((*places_)[static_cast<std::size_t>(c)] * row_count_ + run.place + row - run.begin) * out_.outerStride();
  }

  /// Columns first..last-1 of rows begin..end-1 of one channel.
  void write_rows(const RowRun& run, const View<Scalar>& rows, Index c, Index begin, Index end, Index first, Index last) {
    const Index stride = rows.outerStride();
    Scalar* const numbers = row_of(rows, begin - run.begin);
    const Scalar* scales = &scales_(begin - run.begin, c);
    const auto add_skip = [&](Scalar skip) {
      for (Index i = begin; i < end; ++i) numbers[(i - begin) * stride + i] += skip;
    };
    // Only this channel's diagonal has its skip.
    const bool skips = columns_.skips() && begin < last && end + columns_.width() > first;
    Scalar diagonal[static_cast<std::size_t>(together)] = {};
    if (skips) {
      for (Index i = begin; i < end; ++i) diagonal[i - begin] = numbers[(i - begin) * stride + i];
      add_skip(columns_.skip(c));
    }
    Scalar* const to = target(run, c, begin) + first;
    const bool at_once =
        end - begin == together && columns_.finite() && (last - first) % lane == 0 && writer_.streams_lanes(to, out_.outerStride());
    if (at_once) {
      // Up to the cache line where the last of these rows ends.
      constexpr Index line = numbers_in_a_line<Scalar>;
      Index stop = 0;
      for (Index i = begin; i < end; ++i) stop = std::max(stop, seen_[static_cast<std::size_t>(i - run.begin)].last + 1 - first);
      stop = std::clamp((stop + line - 1) / line * line, Index(0), last - first);
      multiply<together, true>(numbers + first, stride, scales, c, stop, to, out_.outerStride());
      for (Index i = begin; i < end; ++i) writer_.zeros(last - first - stop, to + (i - begin) * out_.outerStride() + stop);
    } else if (end - begin == together) {
      multiply<together, false>(numbers + first, stride, scales, c, last - first, numbers_.data(), numbers_.cols());
    } else {
      for (Index i = begin; i < end; ++i)
        multiply<1, false>(numbers + (i - begin) * stride + first, 0, scales + (i - begin) * scales_.cols(), c, last - first,
                           &numbers_(i - begin, 0), 0);
    }
    for (Index i = begin; i < end && !at_once; ++i) {
      Scalar* entries = &numbers_(i - begin, 0);
      if (!columns_.finite())
        write_exactly(numbers + (i - begin) * stride, seen_[static_cast<std::size_t>(i - run.begin)], c, first, last,
                      scales[(i - begin) * scales_.cols()], entries);
      writer_.copy(entries, last - first, target(run, c, i) + first);
    }
    if (skips)
      for (Index i = begin; i < end; ++i) numbers[(i - begin) * stride + i] = diagonal[i - begin];
  }

  /// Where a path would lead beyond what the row sees: its factor may not be finite, and 0 times it not 0.
  void write_exactly(const Scalar* row, const Seen& seen, Index c, Index first, Index last, Scalar scale, Scalar* entries) const {
    const Index width = columns_.width();
    for (Index j = first; j < last; ++j) {
      if (j + width <= seen.first || j > seen.last)
        entries[j - first] = Scalar(0);
      else if (j < seen.first || j + width - 1 > seen.last)
        entries[j - first] = columns_.exact(row, j, c, seen.first, seen.last, scale);
    }
  }

  /// Rows of entries to `to`, past the caches or into them.
  template <Index Rows, bool Stream>
  void multiply(const Scalar* numbers, Index stride, const Scalar* scales, Index c, Index count, Scalar* to, Index to_stride) const {
    if (columns_.width() == 4)  // nearly all models' convolution: unrolled
      multiply<Rows, Stream, 4>(numbers, stride, scales, c, count, to, to_stride);
    else
      multiply<Rows, Stream, 0>(numbers, stride, scales, c, count, to, to_stride);
  }
  template <Index Rows, bool Stream, Index Width>
  IMPLICIT_ATTENTION_FLATTEN void multiply(const Scalar* numbers, Index stride, const Scalar* scales, Index c, Index count, Scalar* to,
                                           Index to_stride) const {
    const Index width = Width > 0 ? Width : columns_.width(), scale_stride = scales_.cols(), tap_stride = columns_.tap_stride();
    const Scalar* factors = columns_.factor(c, 0, 0);
    Scalar scale[static_cast<std::size_t>(Rows)];
    for (Index r = 0; r < Rows; ++r) scale[r] = scales[r * scale_stride];
    for (Index j = 0; j < count; j += lane) {
      Lanes<Scalar, lane> sums[static_cast<std::size_t>(Rows)];
      add_taps<Rows>(factors + j, tap_stride, numbers + j, stride, width, sums);
      IMPLICIT_ATTENTION_UNROLL
      for (Index r = 0; r < Rows; ++r) {
        if constexpr (Stream)
          RowWriter<Scalar>::stream_lanes(Lanes<Scalar, lane>(sums[r] * scale[r]), to + r * to_stride + j);
        else
          lanes<lane>(to + r * to_stride + j) = sums[r] * scale[r];
      }
    }
  }

  const SharedMatrix<Scalar>* recurrence_;
  const ChannelsByHead* chosen_;
  const std::vector<Index>* places_ = nullptr;
  Index row_count_;
  View<Scalar> out_;
  HeadColumns<Scalar> columns_;
  RowWriter<Scalar> writer_;
  Matrix<Scalar> scales_, numbers_;
  std::vector<Seen> seen_;
};

}  // namespace detail

/// Rows of the chosen channels' matrices into `out`, (channels * rows, tokens). A few heads' runs of rows exist at a time for each worker.
template <Real Scalar>
void attention_rows(const SurroundedMatrix<Scalar>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& rows,
                    View<Scalar> out, const Executor& executor) {
  const detail::ChannelsByHead chosen(surrounded.recurrence, channels);
  detail::each_row_run(surrounded.recurrence, chosen.heads, rows, surrounded.width(), false, 2 * detail::map_block_tokens, executor,
                       [&] { return detail::HeadMapWriter<Scalar>(surrounded, chosen, static_cast<Index>(rows.size()), out); });
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
