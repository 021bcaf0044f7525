// What surrounds a head's matrix, channel by channel: A_e = diag(gate_e) (R_h(e) + diag(skip_e)) diag(act_e) Conv_e. The matrix's rows are
// made once a head and used by all its channels, whatever kind of recurrence it comes from.
#pragma once

#include <algorithm>
#include <cmath>
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

/// Writes the rows of a run for all chosen channels of one head, each row from end to end: memory takes rows that are written side by side
/// at a fraction of its rate.
template <Real Scalar>
class HeadMapWriter {
 public:
  static constexpr int lane = register_lanes<Scalar>;
  static constexpr Index together = 4;    ///< rows that share what is read of the factors
  static constexpr Index stretch = 1024;  ///< tokens of a row that are made at a time: four rows and their factors fit the nearest cache

  HeadMapWriter(const SurroundedMatrix<Scalar>& surrounded, const ChannelsByHead& chosen, Index row_count, View<Scalar> out)
      : recurrence_(&surrounded.recurrence),
        chosen_(&chosen),
        row_count_(row_count),
        stretch_(std::min(stretch, (recurrence_->tokens + lane - 1) / lane * lane)),
        out_(out),
        columns_(surrounded, stretch_, false),
        writer_(out.size()),
        numbers_(together, stretch_ + lane) {}

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
    begin = begin / lane * lane;
    for (Index first = begin; first < end; first += stretch_) {
      const Index last = std::min(first + stretch_, end);
      columns_.prepare(first, last);
      const Stretch of{first, last, first == begin ? 0 : first, last == end ? tokens : last};
      for (Index c = 0; c < columns_.count(); ++c)
        for (Index i = run.begin; i < run.end; i += together) write_rows(run, rows, c, i, std::min(i + together, run.end), of);
    }
    writer_.finish();
  }

 private:
  struct Seen {
    Index first, last;
  };
  /// Columns of a stretch.
  struct Columns {
    Index from, to;
  };
  /// Columns that are computed, and those that are written, with zeros at the ends.
  struct Stretch {
    Index first, last, from, to;
  };

  [[nodiscard]] Scalar* target(const RowRun& run, Index c, Index row) {
    return out_.data() + ((*places_)[static_cast<std::size_t>(c)] * row_count_ + run.place + row - run.begin) * out_.outerStride();
  }

  /// A stretch of rows begin..end-1 of one channel.
  void write_rows(const RowRun& run, const View<Scalar>& rows, Index c, Index begin, Index end, const Stretch& of) {
    const Index stride = rows.outerStride(), first = of.first, last = of.last;
    Scalar* const numbers = row_of(rows, begin - run.begin);
    const Scalar* scales = &scales_(begin - run.begin, c);
    const auto seen = [&](Index i) -> const Seen& { return seen_[static_cast<std::size_t>(i - run.begin)]; };
    Index reached = first;  // beyond what any of these rows sees
    for (Index i = begin; i < end; ++i) reached = std::max(reached, std::min(seen(i).last + 1, last));
    const Index made = (reached - first + lane - 1) / lane * lane;
    // A line that two rows share is read before it is written: asked for now, so that streaming does not wait for it.
    for (Index i = begin; i < end; ++i) writer_.ask_for(target(run, c, i) + of.to);
    if (reached > first) {
      // Only this channel's diagonal has its skip; the convolution takes that of row i to columns i - width + 1 .. i.
      const bool skips = columns_.skips() && begin < last + columns_.width() - 1 && end > first;
      Scalar diagonal[static_cast<std::size_t>(together)] = {};
      for (Index i = begin; skips && i < end; ++i) {
        diagonal[i - begin] = numbers[(i - begin) * stride + i];
        numbers[(i - begin) * stride + i] += columns_.skip(c);
      }
      const auto is_finite = [&](Index i) { return columns_.finite() && std::isfinite(scales[(i - begin) * scales_.cols()]); };
      bool all_finite = true;
      for (Index i = begin; i < end; ++i) all_finite = all_finite && is_finite(i);
      Index rows_at_once = end - begin == together ? together : 1;
      for (Index i = begin + 1; i < end && rows_at_once > 1; ++i)
        if (all_finite && straight(target(run, c, i) + first) &&
            rest_of_line(target(run, c, i) + first) != rest_of_line(target(run, c, begin) + first))
          rows_at_once = 1;
      for (Index i = begin; i < end; i += rows_at_once) {
        // Whole lines that every row sees are written as they are computed; where they begin and end differs from row to row.
        Scalar* const to = target(run, c, i) + first;
        Index from = 0, stop = 0;
        if (all_finite && straight(to)) {
          Index least = last;
          for (Index r = i; r < i + rows_at_once; ++r) least = std::min(least, seen(r).last + 1);
          from = rest_of_line(to);
          stop = from + std::max(least - first - from, Index(0)) / RowWriter<Scalar>::line * RowWriter<Scalar>::line;
        }
        if (stop == from) from = stop = 0;
        const Scalar* const of_row = numbers + (i - begin) * stride + first;
        const Scalar* const of_scale = scales + (i - begin) * scales_.cols();
        if (rows_at_once == together)
          multiply<together>(of_row, stride, of_scale, c, from, stop, made, &numbers_(i - begin, 0), to);
        else
          multiply<1>(of_row, stride, of_scale, c, from, stop, made, &numbers_(i - begin, 0), to);
        for (Index r = i; r < i + rows_at_once; ++r) straight_[r - begin] = {from, stop};
      }
      for (Index i = begin; i < end && !all_finite; ++i)
        if (!is_finite(i))
          write_exactly(numbers + (i - begin) * stride, seen(i), c, first, std::min(first + made, last),
                        scales[(i - begin) * scales_.cols()], &numbers_(i - begin, 0));
      for (Index i = begin; skips && i < end; ++i) numbers[(i - begin) * stride + i] = diagonal[i - begin];
    }
    for (Index i = begin; i < end; ++i) {
      Scalar* const to = target(run, c, i);
      const Index made_to = std::clamp(seen(i).last + 1, first, last);
      Index stop = made_to;
      if (stop > first) stop = std::min(stop + rest_of_line(to + stop), last);
      // What was computed there is 0 times a factor: -0, or NaN.
      std::fill(&numbers_(i - begin, 0) + (made_to - first), &numbers_(i - begin, 0) + (stop - first), Scalar(0));
      const Columns written = reached > first ? straight_[i - begin] : Columns{0, 0};
      writer_.zeros(first - of.from, to + of.from);
      writer_.copy(&numbers_(i - begin, 0), written.from, to + first);
      writer_.copy(&numbers_(i - begin, written.to), stop - first - written.to, to + first + written.to);
      writer_.zeros(of.to - stop, to + stop);
    }
  }

  /// Whether rows whose factors are finite are written to `to` as they are computed.
  [[nodiscard]] bool straight(const Scalar* to) const { return columns_.width() == 4 && writer_.streams(to); }

  /// Where a path would lead beyond what the row sees: its factor, or the row's own, may not be finite, and 0 times it not 0.
  void write_exactly(const Scalar* row, const Seen& seen, Index c, Index first, Index last, Scalar scale, Scalar* entries) const {
    const Index width = columns_.width();
    for (Index j = first; j < last; ++j) {
      if (j + width <= seen.first || j > seen.last)
        entries[j - first] = Scalar(0);
      else if (j < seen.first || j + width - 1 > seen.last)
        entries[j - first] = columns_.exact(row, j, c, seen.first, seen.last, scale);
    }
  }

  /// Entries 0 .. count - 1 of rows into `numbers_to`, which has room for `together` rows; but from `from` to `stop`, whole lines of the
  /// result, straight to `to`.
  template <Index Rows>
  void multiply(const Scalar* numbers, Index stride, const Scalar* scales, Index c, Index from, Index stop, Index count, Scalar* numbers_to,
                Scalar* to) const {
    Scalar scale[static_cast<std::size_t>(Rows)];
    for (Index r = 0; r < Rows; ++r) scale[r] = scales[r * scales_.cols()];
    const Index width = columns_.width(), tap_stride = columns_.tap_stride();
    const Scalar* factors = columns_.factor(c, 0, 0);
    if (width == 4) {  // nearly all models' convolution
      FourTapsOf<Rows> of;
      for (Index r = 0; r < Rows; ++r) of.rows[r] = numbers + r * stride;
      for (Index d = 0; d < 4; ++d) of.factors[d] = factors + d * tap_stride;
      multiply_four<Rows, false>(of, scale, 0, from, numbers_to, numbers_.cols());
      multiply_four<Rows, true>(of, scale, from, stop, to, out_.outerStride());
      return multiply_four<Rows, false>(of, scale, stop / lane * lane, count, numbers_to, numbers_.cols());
    }
    for (Index j = 0; j < count; j += lane) {
      Lanes<Scalar, lane> sums[static_cast<std::size_t>(Rows)];
      add_taps<Rows>(factors + j, tap_stride, numbers + j, stride, width, sums);
      for (Index r = 0; r < Rows; ++r) lanes<lane>(numbers_to + r * numbers_.cols() + j) = sums[r] * scale[r];
    }
  }

  template <Index Rows>
  struct FourTapsOf {
    const Scalar *rows[static_cast<std::size_t>(Rows)], *factors[4];
  };
  /// Every row's and tap's pointer is read from memory once and stays in a register: computed from strides, they took an instruction before
  /// every access. `Straight`: a line at a time, past the caches.
  template <Index Rows, bool Straight>
  EIGEN_DONT_INLINE IMPLICIT_ATTENTION_FLATTEN static void multiply_four(const FourTapsOf<Rows>& from, const Scalar* scales, Index begin,
                                                                         Index end, Scalar* to, Index to_stride) {
    using Lane = Lanes<Scalar, lane>;
    constexpr Index parts = Straight ? std::max(RowWriter<Scalar>::line / lane, Index(1)) : 1;
    const Scalar *const factor0 = from.factors[0], *const factor1 = from.factors[1], *const factor2 = from.factors[2],
                        *const factor3 = from.factors[3];
    const auto row = [&](Index r) { return from.rows[std::min(r, Rows - 1)]; };
    [[maybe_unused]] const Scalar *const row0 = row(0), *const row1 = row(1), *const row2 = row(2), *const row3 = row(3);
    Lane scale[static_cast<std::size_t>(Rows)];
    for (Index r = 0; r < Rows; ++r) scale[r].setConstant(scales[r]);
    for (Index j = begin; j < end; j += parts * lane) {
      Lane first[static_cast<std::size_t>(parts)], second[static_cast<std::size_t>(parts)], third[static_cast<std::size_t>(parts)],
          fourth[static_cast<std::size_t>(parts)];
      IMPLICIT_ATTENTION_UNROLL
      for (Index p = 0; p < parts; ++p) {
        first[p] = lanes<lane>(factor0 + j + p * lane);
        second[p] = lanes<lane>(factor1 + j + p * lane);
        third[p] = lanes<lane>(factor2 + j + p * lane);
        fourth[p] = lanes<lane>(factor3 + j + p * lane);
      }
      const auto write = [&](const Scalar* numbers, Index r) {
        IMPLICIT_ATTENTION_UNROLL
        for (Index p = 0; p < parts; ++p) {
          const Index at = j + p * lane;
          Lane sum = first[p] * lanes<lane>(numbers + at);
          sum += second[p] * lanes<lane>(numbers + at + 1);
          sum += third[p] * lanes<lane>(numbers + at + 2);
          sum += fourth[p] * lanes<lane>(numbers + at + 3);
          if constexpr (Straight)
            RowWriter<Scalar>::stream(to + r * to_stride + at, sum * scale[r]);
          else
            lanes<lane>(to + r * to_stride + at) = sum * scale[r];
        }
      };
      write(row0, 0);
      if constexpr (Rows > 1) {
        write(row1, 1);
        write(row2, 2);
        write(row3, 3);
      }
    }
  }

  const SharedMatrix<Scalar>* recurrence_;
  const ChannelsByHead* chosen_;
  const std::vector<Index>* places_ = nullptr;
  Index row_count_, stretch_;
  View<Scalar> out_;
  HeadColumns<Scalar> columns_;
  RowWriter<Scalar> writer_;
  Matrix<Scalar> scales_, numbers_;
  std::vector<Seen> seen_;
  Columns straight_[static_cast<std::size_t>(together)] = {};  // per row: the columns that are written already
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
