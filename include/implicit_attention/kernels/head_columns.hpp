// What stands right of a head's matrix, channel by channel: column factors, prepared for a stretch of tokens and used by many rows.
#pragma once

#include <algorithm>
#include <vector>

#include <implicit_attention/kernels/plain.hpp>
#include <implicit_attention/kernels/shared_matrix.hpp>
#include <implicit_attention/kernels/transpose.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Tokens whose factors exist at a time.
constexpr Index stretch_tokens = 512;

/// The chosen channels of one head. factor(c, d, j) = taps[W-1-d] activation[j+d] column_weights[j], so that
///
///     A[i,j] = scale(i, c) sum_d (R[i,j+d] + [j+d = i] skip) factor(c, d, j)        scale = gate row_weights
///
/// Beyond the tokens, and where the convolution is masked, factors are zero.
template <Real Scalar>
class HeadColumns {
 public:
  static constexpr int width_of_lane = register_lanes<Scalar>;

  /// `together`: the factors of all channels for a register of tokens lie side by side, rather than those of one channel for all tokens.
  HeadColumns(const SurroundedMatrix<Scalar>& surrounded, const std::vector<Index>& channels, bool together)
      : s_(&surrounded),
        channels_(&channels),
        count_(static_cast<Index>(channels.size())),
        width_(surrounded.width()),
        together_(together),
        factors_(count_ * width_, stretch_tokens + width_of_lane),
        taps_(width_, count_) {
    neighbours_ = channels.back() - channels.front() + 1 == count_ && std::is_sorted(channels.begin(), channels.end());
    for (Index c = 0; c < count_; ++c)
      for (Index d = 0; d < width_; ++d) taps_(d, c) = entry(s_->taps, width_ - 1 - d, channel(c));
    activation_.setOnes(count_, stretch_tokens + width_ + width_of_lane);
    columns_.setOnes(count_, stretch_tokens + width_of_lane);
  }

  [[nodiscard]] Index count() const { return count_; }
  [[nodiscard]] Index width() const { return width_; }
  [[nodiscard]] Index channel(Index c) const { return (*channels_)[static_cast<std::size_t>(c)]; }
  [[nodiscard]] Scalar skip(Index c) const { return entry(s_->skip, 0, channel(c), Scalar(0)); }
  [[nodiscard]] bool skips() const { return !s_->skip.empty(); }

  /// Makes the factors of tokens begin..end-1.
  void prepare(Index begin, Index end) {
    begin_ = begin;
    const Index tokens = s_->recurrence.tokens, count = end - begin, reached = std::min(end + width_ - 1, tokens) - begin;
    if (!s_->activation.empty()) turn(s_->activation, begin, reached, activation_);
    if (!s_->column_weights.empty()) turn(s_->column_weights, begin, count, columns_);
    const Index lanes_count = (count + width_of_lane - 1) / width_of_lane;
    for (Index c = 0; c < count_; ++c)
      for (Index d = 0; d < width_; ++d) {
        const Scalar tap = taps_(d, c);
        for (Index lane = 0; lane < lanes_count; ++lane) {
          const Index j = lane * width_of_lane;
          lanes<width_of_lane>(factors_.data() + place(c, d, j)) =
              tap * lanes<width_of_lane>(&activation_(c, j + d)) * lanes<width_of_lane>(&columns_(c, j));
        }
        for (Index j = std::max(Index(0), std::min(tokens - d - begin, lanes_count * width_of_lane)); j < lanes_count * width_of_lane; ++j)
          factors_.data()[place(c, d, j)] = Scalar(0);
      }
    for (const Index start : s_->convolution_starts)
      for (Index d = 1; d < width_; ++d)
        for (Index j = std::max(start - d, begin); j < std::min(start, end); ++j)
          for (Index c = 0; c < count_; ++c) factors_.data()[place(c, d, j - begin)] = Scalar(0);
  }

  /// scales(i - begin, c) of rows begin..end-1.
  void scales(Index begin, Index end, Matrix<Scalar>& scales) const {
    scales.setOnes(end - begin, count_);
    for (const Array<Scalar>* array : {&s_->gate, &s_->row_weights})
      if (!array->empty())
        for (Index i = begin; i < end; ++i)
          for (Index c = 0; c < count_; ++c) scales(i - begin, c) *= (*array)(i, channel(c));
  }

  /// The factor of token begin + j, and neighbours up to the end of a register.
  [[nodiscard]] const Scalar* factor(Index c, Index d, Index j) const { return factors_.data() + place(c, d, j); }
  /// Factors of tap d, (channels, tokens), where they are not together.
  [[nodiscard]] ConstView<Scalar> factors(Index d, Index count) const {
    return {factors_.data() + d * factors_.cols(), count_, count, width_ * factors_.cols()};
  }

  /// Entry (i, j) of channel c, nothing taken from beyond the tokens that row i sees, first..last.
  [[nodiscard]] Scalar exact(const Scalar* row, Index i, Index j, Index c, Index first, Index last, Scalar scale) const {
    Scalar sum = 0;
    for (Index d = std::max(Index(0), first - j); d < width_ && j + d <= last; ++d)
      sum += (row[j + d] + (j + d == i ? skip(c) : Scalar(0))) * *factor(c, d, j - begin_);
    return scale * sum;
  }

 private:
  [[nodiscard]] Index place(Index c, Index d, Index j) const {
    if (!together_) return (c * width_ + d) * factors_.cols() + j;
    return ((j / width_of_lane * count_ + c) * width_ + d) * width_of_lane + j % width_of_lane;
  }

  /// turned(c, k) = array(begin + k, channel c)
  void turn(const Array<Scalar>& array, Index begin, Index count, Matrix<Scalar>& turned) const {
    Index c = 0;
    if (neighbours_)
      for (; c + width_of_lane <= count_; c += width_of_lane)
        transpose<width_of_lane>(array.row(begin) + channel(c), array.row_stride(), count, [&](int k) { return &turned(c + k, 0); });
    for (; c < count_; ++c)
      for (Index k = 0; k < count; ++k) turned(c, k) = array(begin + k, channel(c));
  }

  const SurroundedMatrix<Scalar>* s_;
  const std::vector<Index>* channels_;
  Index count_, width_, begin_ = 0;
  bool together_, neighbours_ = false;
  Matrix<Scalar> factors_, taps_, activation_, columns_;
};

/// Chosen channels by the head they belong to: places in the caller's list; and the heads that have some.
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
