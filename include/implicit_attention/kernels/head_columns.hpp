// What stands right of a head's matrix, channel by channel: column factors, prepared for a stretch of tokens and used by many rows.
#pragma once

#include <algorithm>
#include <vector>

#include <implicit_attention/core/finite.hpp>
#include <implicit_attention/kernels/plain.hpp>
#include <implicit_attention/kernels/shared_matrix.hpp>
#include <implicit_attention/kernels/transpose.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Tokens whose factors are prepared at a time where they are multiplied as matrices.
constexpr Index stretch_tokens = 256;

/// sums[r] = sum_d factors[d] numbers[r, d..] of a register of tokens, for rows that are `stride` apart.
template <Index Rows, Real Scalar>
EIGEN_ALWAYS_INLINE void add_taps(const Scalar* factors, Index tap_stride, const Scalar* numbers, Index stride, Index width,
                                  Lanes<Scalar, register_lanes<Scalar>>* sums) {
  constexpr int lane = register_lanes<Scalar>;
  const Lanes<Scalar, lane> first = lanes<lane>(factors);
  IMPLICIT_ATTENTION_UNROLL
  for (Index r = 0; r < Rows; ++r) sums[r] = first * lanes<lane>(numbers + r * stride);
  IMPLICIT_ATTENTION_UNROLL
  for (Index d = 1; d < width; ++d) {
    const Lanes<Scalar, lane> factor = lanes<lane>(factors + d * tap_stride);
    IMPLICIT_ATTENTION_UNROLL
    for (Index r = 0; r < Rows; ++r) sums[r] += factor * lanes<lane>(numbers + r * stride + d);
  }
}

/// The chosen channels of one head. factor(c, d, j) = taps[W-1-d] activation[j+d] column_weights[j], so that
///
///     A[i,j] = scale(i, c) sum_d (R[i,j+d] + [j+d = i] skip(c)) factor(c, d, j)        scale = gate row_weights
///
/// Beyond the tokens, and where the convolution is masked, factors are zero.
template <Real Scalar>
class HeadColumns {
 public:
  static constexpr int width_of_lane = register_lanes<Scalar>;

  /// For at most `stretch` tokens at a time. `together`: the factors of all channels for a register of tokens lie side by side, rather than
  /// those of one channel for all tokens. `by_taps`: the caller multiplies by taps and activations itself where factors are nothing
  /// else, and none are computed then.
  HeadColumns(const SurroundedMatrix<Scalar>& surrounded, Index stretch, bool together, bool by_taps = false)
      : s_(&surrounded),
        width_(surrounded.width()),
        stretch_(stretch),
        together_(together),
        by_taps_(by_taps && surrounded.convolution_starts.empty() && surrounded.column_weights.empty()) {}

  /// Chooses channels, all of one head.
  void choose(const std::vector<Index>& channels) {
    channels_ = &channels;
    count_ = static_cast<Index>(channels.size());
    neighbours_ = channels.back() - channels.front() + 1 == count_ && std::is_sorted(channels.begin(), channels.end());
    taps_.resize(width_, count_);
    for (Index c = 0; c < count_; ++c)
      for (Index d = 0; d < width_; ++d) taps_(d, c) = entry(s_->taps, width_ - 1 - d, channel(c));
    if (!by_taps_) factors_.resize(count_ * width_, stretch_ + width_of_lane);
    if (activation_.rows() == count_) return;
    activation_.setOnes(count_, padded<Scalar>(stretch_, width_));  // whole registers: none straddles two lines
    if (!by_taps_) columns_.setOnes(count_, stretch_ + width_of_lane);
  }

  [[nodiscard]] Index count() const { return count_; }
  [[nodiscard]] Index width() const { return width_; }
  [[nodiscard]] Index channel(Index c) const { return (*channels_)[static_cast<std::size_t>(c)]; }
  [[nodiscard]] Scalar skip(Index c) const { return entry(s_->skip, 0, channel(c), Scalar(0)); }
  [[nodiscard]] bool skips() const { return !s_->skip.empty(); }

  /// Computes the factors of tokens begin..end-1.
  void prepare(Index begin, Index end) {
    begin_ = begin;
    const Index tokens = s_->recurrence.tokens, count = end - begin, reached = std::min(end + width_ - 1, tokens) - begin,
                filled = (count + width_of_lane - 1) / width_of_lane * width_of_lane;
    if (!s_->activation.empty()) {
      transpose_into(s_->activation, begin, reached, activation_);
      activation_.middleCols(reached, filled + width_ - reached).setZero();
    }
    if (by_taps_) {
      finite_ = all_finite(taps_) && all_finite(activation_.leftCols(filled + width_));
      return;
    }
    if (!s_->column_weights.empty()) transpose_into(s_->column_weights, begin, count, columns_);
    finite_ = true;
    for (Index c = 0; c < count_; ++c)
      for (Index d = 0; d < width_; ++d) {
        finite_ = multiply(taps_(d, c), activation_.data() + c * activation_.cols() + d, columns_.data() + c * columns_.cols(), filled,
                           factors_.data() + place(c, d, 0)) &&
                  finite_;
        for (Index j = std::clamp(tokens - d - begin, Index(0), filled); j < filled; ++j) factors_.data()[place(c, d, j)] = Scalar(0);
      }
    for (const Index start : s_->convolution_starts)
      for (Index d = 1; d < width_; ++d)
        for (Index j = std::max(start - d, begin); j < std::min(start, end); ++j)
          for (Index c = 0; c < count_; ++c) factors_.data()[place(c, d, j - begin)] = Scalar(0);
  }
  /// Whether all factors are finite, a few beyond the end included: products with zeros of the matrix are then zero.
  [[nodiscard]] bool finite() const { return finite_; }

  /// scales(i - begin, c) of rows begin..end-1.
  void scales(Index begin, Index end, Matrix<Scalar>& scales) const {
    scales.setOnes(end - begin, count_);
    for (const Array<Scalar>* array : {&s_->gate, &s_->row_weights})
      if (!array->empty())
        for (Index i = begin; i < end; ++i) {
          if (neighbours_)
            scales.row(i - begin).array() *= Eigen::Map<const RowVector<Scalar>>(array->row(i) + channel(0), count_).array();
          else
            for (Index c = 0; c < count_; ++c) scales(i - begin, c) *= (*array)(i, channel(c));
        }
  }

  /// The factor of token begin + j, and neighbours up to the end of a register.
  [[nodiscard]] const Scalar* factor(Index c, Index d, Index j) const { return factors_.data() + place(c, d, j); }
  /// Whether factor(c, d, j) would be tap(c, d) activation(c)[j + d], and is not computed.
  [[nodiscard]] bool by_taps() const { return by_taps_; }
  [[nodiscard]] const Scalar* activation(Index c) const { return activation_.data() + c * activation_.cols(); }
  [[nodiscard]] Scalar tap(Index c, Index d) const { return taps_(d, c); }
  /// From one tap's factors to the next one's, where they are not together.
  [[nodiscard]] Index tap_stride() const { return factors_.cols(); }
  /// Factors of tap d, (channels, tokens), where they are not together.
  [[nodiscard]] ConstView<Scalar> factors(Index d, Index count) const {
    return {factors_.data() + d * factors_.cols(), count_, count, width_ * factors_.cols()};
  }

  /// Entry j of a row of channel c, without the taps outside of what the row sees, first..last.
  [[nodiscard]] Scalar exact(const Scalar* row, Index j, Index c, Index first, Index last, Scalar scale) const {
    Scalar sum = 0;
    for (Index d = std::max(Index(0), first - j); d < width_ && j + d <= last; ++d)
      sum += row[j + d] * (by_taps_ ? tap(c, d) * activation(c)[j - begin_ + d] : *factor(c, d, j - begin_));
    return scale * sum;
  }

 private:
  [[nodiscard]] Index place(Index c, Index d, Index j) const {
    if (!together_) return (c * width_ + d) * factors_.cols() + j;
    return ((j / width_of_lane * count_ + c) * width_ + d) * width_of_lane + j % width_of_lane;
  }

  /// One channel's factors of one tap for `count` tokens; returns whether they are finite.
  IMPLICIT_ATTENTION_FLATTEN bool multiply(Scalar tap, const Scalar* activation, const Scalar* columns, Index count, Scalar* out) const {
    const Index step = together_ ? count_ * width_ * width_of_lane : Index(width_of_lane);
    Lanes<Scalar, width_of_lane> rests = Lanes<Scalar, width_of_lane>::Zero();
    for (Index j = 0; j < count; j += width_of_lane, out += step) {
      const Lanes<Scalar, width_of_lane> product = tap * lanes<width_of_lane>(activation + j) * lanes<width_of_lane>(columns + j);
      lanes<width_of_lane>(out) = product;
      rests += product * Scalar(0);
    }
    return rests.sum() == Scalar(0);
  }

  /// transposed(c, k) = array(begin + k, channel c)
  void transpose_into(const Array<Scalar>& array, Index begin, Index count, Matrix<Scalar>& transposed) const {
    Index c = 0;
    if (neighbours_)
      for (; c + width_of_lane <= count_; c += width_of_lane)
        transpose<width_of_lane>(array.row(begin) + channel(c), array.row_stride(), count,
                                 [&](int k) { return transposed.data() + (c + k) * transposed.cols(); });
    for (; c < count_; ++c)
      for (Index k = 0; k < count; ++k) transposed(c, k) = array(begin + k, channel(c));
  }

  const SurroundedMatrix<Scalar>* s_;
  const std::vector<Index>* channels_ = nullptr;
  Index count_ = 0, width_, stretch_, begin_ = 0;
  bool together_, by_taps_, neighbours_ = false, finite_ = true;
  Matrix<Scalar> factors_, taps_, activation_, columns_;
};

/// The terms around a head's matrix, with zeros in place of column factors that are not finite, for the rows that see none of these:
/// their results have the same bits as if all factors were finite.
template <Real Scalar>
struct FiniteColumns {
  SurroundedMatrix<Scalar> part;
  Index first;  ///< the first token of such a factor; the number of tokens where the rows see none

  /// For chosen channels and rows. Numbers that none of them reads may hold anything, and are not looked at.
  FiniteColumns(const SurroundedMatrix<Scalar>& surrounded, const std::vector<Index>& channels, const std::vector<Index>& rows)
      : part(surrounded), first(surrounded.recurrence.tokens) {
    if (channels.empty() || rows.empty()) return;
    Index end = 0;  // factors of a few tokens beyond the last one that is seen are computed and tested, too
    for (const Index row : rows) end = std::max(end, std::min(part.recurrence.last_seen(row) + part.width(), part.recurrence.tokens));
    const auto [left, right] = std::minmax_element(channels.begin(), channels.end());
    for (Array<Scalar>* array : {&part.activation, &part.column_weights}) {
      if (array->empty()) continue;
      if (const auto place = first_not_finite(array->matrix().block(0, *left, end, *right - *left + 1)))
        first = std::min(first, place->first);
    }
    if (!part.taps.empty() && !all_finite(*part.taps)) first = 0;
    if (first == surrounded.recurrence.tokens) return;
    part.activation = finite_part(part.activation);
    part.column_weights = finite_part(part.column_weights);
  }
  /// Calls `rows_of(columns, run, rows)` for the run's rows that see no such factor, with `finite`, and for the others, with `all`.
  template <class Columns, class RowsOf>
  void split(Columns& finite, Columns& all, const RowRun& run, const View<Scalar>& rows, const RowsOf& rows_of) const {
    Index split = run.begin;
    while (split < run.end && part.recurrence.last_seen(split) < first) ++split;
    const auto rows_from = [&](Index begin, Index end) {
      return View<Scalar>(row_of(rows, begin - run.begin), end - begin, rows.cols(), rows.outerStride());
    };
    if (run.begin < split) rows_of(finite, RowRun{run.begin, split, run.place}, rows_from(run.begin, split));
    if (split < run.end) rows_of(all, RowRun{split, run.end, run.place + split - run.begin}, rows_from(split, run.end));
  }
};

/// The tokens that each row of a run sees, and the columns begin..end-1 outside of which none of the rows has entries.
struct SeenTokens {
  struct Row {
    Index first, last;
  };
  std::vector<Row> rows;
  Index begin = 0, end = 0;

  /// `width` of the convolution; `begin` is rounded down to whole registers of `lane`.
  template <Real Scalar>
  void look_up(const SharedMatrix<Scalar>& recurrence, const RowRun& run, Index width, Index lane) {
    end = 0;
    begin = recurrence.tokens;
    rows.clear();
    for (Index i = run.begin; i < run.end; ++i) {
      rows.push_back({recurrence.first_visible(i), recurrence.last_seen(i)});
      end = std::max(end, rows.back().last + 1);
      begin = std::min(begin, std::max(rows.back().first - width + 1, Index(0)));
    }
    begin = begin / lane * lane;
  }
  [[nodiscard]] const Row& operator[](Index i) const { return rows[static_cast<std::size_t>(i)]; }
};

/// Chosen channels by the head that they belong to, with their places in the caller's list; and the heads that have any.
struct ChannelsByHead {
  std::vector<std::vector<Index>> places, channels;
  std::vector<Index> heads;

  template <class Recurrence>
  ChannelsByHead(const Recurrence& recurrence, const std::vector<Index>& chosen)
      : places(static_cast<std::size_t>(recurrence.heads)), channels(places.size()) {
    for (std::size_t place = 0; place < chosen.size(); ++place) {
      const auto head = static_cast<std::size_t>(recurrence.head(chosen[place]));
      places[head].push_back(static_cast<Index>(place));
      channels[head].push_back(chosen[place]);
    }
    for (std::size_t head = 0; head < places.size(); ++head)
      if (!places[head].empty()) heads.push_back(static_cast<Index>(head));
  }
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
