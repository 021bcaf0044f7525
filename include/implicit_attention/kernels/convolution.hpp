// The causal depthwise convolution before a recurrence, with its bias and what was carried in from before the first token.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/kernels/channel_groups.hpp>
#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/recurrence.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What enters a scan; everything may be absent.
template <Real Scalar>
struct ScanInput {
  Array<Scalar> x;                 ///< (tokens, channels), before the convolution
  Array<Scalar> convolution_bias;  ///< (1, channels), added after the convolution
  Array<Scalar> convolution_tail;  ///< (width - 1, channels): the inputs before the first token, oldest first
  Array<Scalar> initial_state;     ///< (state, channels): the state before the first token
};

namespace detail {

/// Walks ascending positions alongside a token counter.
class DocumentCursor {
 public:
  explicit DocumentCursor(const std::vector<Index>& positions) : positions_(&positions) {}
  /// The last position at or before `token`, or -1; tokens must be asked for in ascending order.
  [[nodiscard]] Index last_until(Index token) {
    while (next_ < positions_->size() && (*positions_)[next_] <= token) last_ = (*positions_)[next_++];
    return last_;
  }

 private:
  const std::vector<Index>* positions_;
  std::size_t next_ = 0;
  Index last_ = -1;
};

/// out[i] = sum_k taps[k] rows[i + k] for `count` rows of neighbouring channels, contiguous.
template <int Width, Real Scalar>
EIGEN_ALWAYS_INLINE void convolve_rows(const Scalar* rows, const Scalar* taps, Index taps_count, Index count, Scalar* out) {
  for (Index i = 0; i < count; ++i) {
    Lanes<Scalar, Width> sum = lanes<Width>(taps) * lanes<Width>(rows + i * Width);
    for (Index k = 1; k < taps_count; ++k) sum += lanes<Width>(taps + k * Width) * lanes<Width>(rows + (i + k) * Width);
    lanes<Width>(out + i * Width) = sum;
  }
}

/// Four taps, nearly all models' convolution, of a register of channels. It is handed row after row, the last one first, and keeps what it
/// needs of them in registers.
template <int Lanewise, Real Scalar>
class FourTaps {
 public:
  using Lane = Lanes<Scalar, Lanewise>;

  /// From four rows of taps, and the three rows after the last one; rows are `stride` apart.
  EIGEN_ALWAYS_INLINE FourTaps(const Scalar* taps, const Scalar* later, Index stride)
      : tap0_(lanes<Lanewise>(taps)),
        tap1_(lanes<Lanewise>(taps + stride)),
        tap2_(lanes<Lanewise>(taps + 2 * stride)),
        tap3_(lanes<Lanewise>(taps + 3 * stride)),
        row1_(lanes<Lanewise>(later)),
        row2_(lanes<Lanewise>(later + stride)),
        row3_(lanes<Lanewise>(later + 2 * stride)) {}

  /// sum_k taps[k] rows[i + k], after rows i + 1, i + 2 and i + 3.
  EIGEN_ALWAYS_INLINE Lane take(const Lane& row) {
    const Lane sum = tap0_ * row + tap1_ * row1_ + (tap2_ * row2_ + tap3_ * row3_);
    row3_ = row2_;
    row2_ = row1_;
    row1_ = row;
    return sum;
  }

  /// Writes the last three rows that were taken: the convolution of the rows before them goes on from these.
  EIGEN_ALWAYS_INLINE void store_rows(Scalar* rows, Index stride) const {
    lanes<Lanewise>(rows) = row1_;
    lanes<Lanewise>(rows + stride) = row2_;
    lanes<Lanewise>(rows + 2 * stride) = row3_;
  }

 private:
  Lane tap0_, tap1_, tap2_, tap3_, row1_, row2_, row3_;
};

/// convolve_rows for four taps.
template <int Width, Real Scalar>
EIGEN_ALWAYS_INLINE void convolve_rows_4(const Scalar* rows, const Scalar* taps, Index count, Scalar* out) {
  constexpr int width = std::min(Width, register_lanes<Scalar>);
  for (int c = 0; c < Width; c += width) {
    FourTaps<width, Scalar> convolution(taps + c, rows + count * Width + c, Width);
    for (Index i = count - 1; i >= 0; --i) lanes<width>(out + i * Width + c) = convolution.take(lanes<width>(rows + i * Width + c));
  }
}

/// rows[to + i] = rows[from + i] for `count` rows of neighbouring channels, which may overlap: the part of the previous run of
/// tokens that a convolution still reads.
template <int Width, Real Scalar>
EIGEN_ALWAYS_INLINE void carry_rows(Scalar* rows, Index from, Index to, Index count) {
  const auto carry = [&](Index i) {
    lanes<Width>(rows + (to + i) * Width) = Lanes<Scalar, Width>(lanes<Width>(rows + (from + i) * Width));
  };
  if (to < from)
    for (Index i = 0; i < count; ++i) carry(i);
  else
    for (Index i = count - 1; i >= 0; --i) carry(i);
}

/// A tile's convolution, or its transpose, of a few neighbouring tokens at a time. There must be one.
template <int Width, class Recurrence, Real Scalar = typename Recurrence::ScalarType>
class TileConvolution {
 public:
  TileConvolution(const Surrounded<Recurrence>& surrounded, Index channel, bool transposed)
      : surrounded_(&surrounded), lead_(surrounded.width() - 1), taps_(lane_rows<Width>(surrounded.taps, channel)) {
    if (transposed)
      for (Index i = 0, j = taps_.rows() - 1; i < j; ++i, --j)
        std::swap_ranges(taps_.data() + i * Width, taps_.data() + (i + 1) * Width, taps_.data() + j * Width);
  }

  /// Of tokens begin..end-1, from rows of tokens begin - lead .. end - 1.
  EIGEN_ALWAYS_INLINE void apply(Index begin, Index end, const Scalar* rows, Scalar* out) const {
    if (surrounded_->convolution_start(end - 1) <= begin - lead_) return whole(rows, end - begin, out);
    for (Index token = begin; token < end; ++token) {
      const Index oldest = token - lead_;
      part(rows + (token - begin) * Width, std::max(surrounded_->convolution_start(token), oldest) - oldest, lead_ + 1,
           out + (token - begin) * Width);
    }
  }
  /// Whether the transpose of tokens begin..end-1 takes something from every row up to end - 1 + lead, through every tap.
  [[nodiscard]] bool reaches_whole(Index begin, Index end, Index last) const {
    return std::min(surrounded_->next_convolution_start(begin) - 1, last) >= end - 1 + lead_;
  }
  /// The taps in the order of the rows, (width, Width).
  [[nodiscard]] const Scalar* taps() const { return taps_.data(); }

  /// The transpose's, from rows of tokens begin .. end - 1 + lead; nothing is taken from beyond token `last`.
  IMPLICIT_ATTENTION_FLATTEN EIGEN_DONT_INLINE void apply_transposed(Index begin, Index end, Index last, const Scalar* rows,
                                                                     Scalar* out) const {
    if (reaches_whole(begin, end, last)) return whole(rows, end - begin, out);
    for (Index token = begin; token < end; ++token)
      part(rows + (token - begin) * Width, 0, std::min(surrounded_->last_reached(token), last) - token + 1, out + (token - begin) * Width);
  }

 private:
  EIGEN_ALWAYS_INLINE void whole(const Scalar* rows, Index count, Scalar* out) const {
    if (lead_ == 3)
      convolve_rows_4<Width>(rows, taps_.data(), count, out);
    else
      convolve_rows<Width>(rows, taps_.data(), lead_ + 1, count, out);
  }
  /// One row with taps first..last-1 alone.
  EIGEN_ALWAYS_INLINE void part(const Scalar* rows, Index first, Index last, Scalar* out) const {
    Lanes<Scalar, Width> sum = Lanes<Scalar, Width>::Zero();
    for (Index k = first; k < last; ++k) sum += taps_.row(k) * lanes<Width>(rows + k * Width);
    lanes<Width>(out) = sum;
  }

  const Surrounded<Recurrence>* surrounded_;
  Index lead_;
  LaneRows<Scalar, Width> taps_;
};

/// One tile's input after the convolution, bias and tail included: a run of tokens at a time, one run after the other.
template <int Width, class Recurrence, Real Scalar = typename Recurrence::ScalarType>
class ConvolvedInput {
 public:
  using Lane = Lanes<Scalar, Width>;

  ConvolvedInput(const Surrounded<Recurrence>& surrounded, const ScanInput<Scalar>& input, Index channel)
      : surrounded_(&surrounded),
        input_(&input),
        x_(input.x, channel),
        column_weights_(surrounded.column_weights, channel),
        convolution_(surrounded, channel, false),
        entered_(LaneRows<Scalar, Width>::Zero(surrounded.width() - 1 + tokens_in_a_run)),
        convolved_(tokens_in_a_run) {
    bias_.setZero();
    if (!input.convolution_bias.empty()) bias_ = lanes<Width>(input.convolution_bias.data() + channel);
    for (Index i = 0; i < input.convolution_tail.rows(); ++i) entered_.row(i) = lanes<Width>(input.convolution_tail.row(i) + channel);
  }

  /// Takes in tokens begin..end-1, those after the last ones: at most tokens_in_a_run. Returns their rows, (tokens, Width).
  IMPLICIT_ATTENTION_FLATTEN EIGEN_DONT_INLINE Scalar* enter(Index begin, Index end) {
    const Index lead = surrounded_->width() - 1;
    const bool convolves = !surrounded_->taps.empty();
    Scalar *const entered = entered_.data(), *const convolved = convolved_.data();
    if (begin != 0) carry_rows<Width>(entered, tokens_in_a_run, 0, lead);
    Scalar* const entering = convolves ? entered + lead * Width : convolved;
    for (Index token = begin; token < end; ++token) {
      Lane x = Lane::Zero();
      if (!x_.empty()) x = lanes<Width>(x_.row(token));
      lanes<Width>(entering + (token - begin) * Width) = x;
    }
    scale_rows<Width>(column_weights_, begin, end, entering);
    if (convolves) convolution_.apply(begin, end, entered, convolved);
    if (!input_->convolution_bias.empty())
      for (Index i = 0; i < end - begin; ++i) lanes<Width>(convolved + i * Width) += bias_;
    return convolved;
  }
  /// Prefetches what enters at a token, if there is such a token.
  EIGEN_ALWAYS_INLINE void prefetch_token(Index token) const { prefetch<Width>(x_, token); }

 private:
  const Surrounded<Recurrence>* surrounded_;
  const ScanInput<Scalar>* input_;
  ArrayRows<Scalar> x_, column_weights_;
  TileConvolution<Width, Recurrence> convolution_;
  LaneRows<Scalar, Width> entered_;    // (lead and a run): what entered, the run's tokens behind those that the convolution looks back to
  LaneRows<Scalar, Width> convolved_;  // (run)
  Lane bias_;
};

}  // namespace detail

/// out = Conv diag(column_weights) x + bias + what the tail gives, (tokens, channels).
template <class Recurrence, Real Scalar = typename Recurrence::ScalarType>
void convolve(const Surrounded<Recurrence>& surrounded, const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor) {
  for_channel_tiles(surrounded.recurrence.channels, executor, [&]<int Width>(Index channel, Index) {
    detail::ConvolvedInput<Width, Recurrence> convolved(surrounded, input, channel);
    detail::for_token_runs(surrounded.recurrence.tokens, [&](Index begin, Index end) {
      const Scalar* rows = convolved.enter(begin, end);
      for (Index token = begin; token < end; ++token)
        lanes<Width>(out.data() + token * out.outerStride() + channel) = lanes<Width>(rows + (token - begin) * Width);
    });
  });
}

/// out = Conv^T g, (tokens, channels), for taps (width, channels) as in Surrounded; nothing is carried across the documents in `starts`.
template <Real Scalar>
void convolve_transposed(ConstView<Scalar> taps, const std::vector<Index>& starts, ConstView<Scalar> g, View<Scalar> out,
                         const Executor& executor = serial_executor()) {
  const Index tokens = g.rows(), channels = g.cols(), lead = taps.rows() - 1, run = detail::tokens_in_a_run;
  check_shape("convolve_transposed", "taps", taps, lead + 1, channels, "(width, channels)");
  check_shape("convolve_transposed", "out", out, tokens, channels, "(tokens, channels)");
  SurroundedDiagonal<Scalar> surrounded;
  surrounded.recurrence.tokens = tokens;
  surrounded.recurrence.channels = channels;
  surrounded.taps = Array<Scalar>::view(taps);
  surrounded.convolution_starts = starts;
  for_channel_tiles(channels, executor, [&]<int Width>(Index channel, Index) {
    const detail::TileConvolution<Width, DiagonalRecurrence<Scalar>> convolution(surrounded, channel, true);
    LaneRows<Scalar, Width> rows(run + lead), convolved(run);
    for (Index end = tokens, begin; end > 0; end = begin) {
      begin = std::max(end - run, Index(0));
      if (end != tokens) detail::carry_rows<Width>(rows.data(), 0, end - begin, lead);
      for (Index token = begin; token < end; ++token) rows.row(token - begin) = lanes<Width>(g.data() + token * g.outerStride() + channel);
      convolution.apply_transposed(begin, end, tokens - 1, rows.data(), convolved.data());
      for (Index token = begin; token < end; ++token)
        lanes<Width>(out.data() + token * out.outerStride() + channel) = convolved.row(token - begin);
    }
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
