// The causal depthwise convolution before a recurrence, with its bias and what was carried in from before the first token.
#pragma once

#include <algorithm>

#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/recurrence.hpp>

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
class Marks {
 public:
  explicit Marks(const std::vector<Index>& positions) : positions_(&positions) {}
  /// The last mark at or before `token`, or -1; tokens must be asked for in ascending order.
  [[nodiscard]] Index last_until(Index token) {
    while (next_ < positions_->size() && (*positions_)[next_] <= token) last_ = (*positions_)[next_++];
    return last_;
  }

 private:
  const std::vector<Index>* positions_;
  std::size_t next_ = 0;
  Index last_ = -1;
};

/// One tile's input after the convolution, token by token: bias and tail included.
template <int Width, class Recurrence, Real Scalar = typename Recurrence::ScalarType>
class ConvolvedInput {
 public:
  using Lane = Lanes<Scalar, Width>;

  ConvolvedInput(const Dressed<Recurrence>& dressed, const ScanInput<Scalar>& input, Index channel)
      : dressed_(&dressed),
        input_(&input),
        channel_(channel),
        width_(dressed.width()),
        mask_(ring_size(width_) - 1),
        taps_(lane_rows<Width>(dressed.taps, channel)),
        recent_(mask_ + 1, Width),
        documents_(dressed.convolution_starts) {
    bias_.setZero();
    if (!input.convolution_bias.empty()) bias_ = lanes<Width>(input.convolution_bias.data() + channel);
    recent_.setZero();
    if (input.convolution_tail.empty()) return;
    for (Index source = 1 - width_; source < 0; ++source)
      recent_.row(source & mask_) = lanes<Width>(input.convolution_tail.row(width_ - 1 + source) + channel);
  }

  /// Of the token after the last one asked for.
  [[nodiscard]] Lane next() {
    const Index token = token_++;
    Lane entering = Lane::Zero();
    if (!input_->x.empty()) entering = lanes<Width>(input_->x.row(token) + channel_);
    if (!dressed_->column_scale.empty()) entering *= lanes<Width>(dressed_->column_scale.row(token) + channel_);
    if (dressed_->taps.empty()) return entering + bias_;
    recent_.row(token & mask_) = entering;
    const Index document = documents_.last_until(token), oldest = token - (width_ - 1);
    Lane sum = bias_;
    for (Index source = document < 0 ? oldest : std::max(oldest, document); source <= token; ++source)
      sum += taps_.row(source - oldest) * recent_.row(source & mask_);
    return sum;
  }

 private:
  const Dressed<Recurrence>* dressed_;
  const ScanInput<Scalar>* input_;
  Index channel_, width_, mask_, token_ = 0;
  LaneRows<Scalar, Width> taps_, recent_;  // (width), (ring): what entered the last tokens
  Lane bias_;
  Marks documents_;
};

}  // namespace detail

/// out = Conv diag(column_scale) x + bias + what the tail gives, (tokens, channels).
template <class Recurrence, Real Scalar = typename Recurrence::ScalarType>
void convolve(const Dressed<Recurrence>& dressed, const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor) {
  for_channel_tiles(dressed.recurrence.channels, executor, [&]<int Width>(Index channel) {
    detail::ConvolvedInput<Width, Recurrence> convolved(dressed, input, channel);
    for (Index token = 0; token < dressed.recurrence.tokens; ++token)
      lanes<Width>(out.data() + token * out.outerStride() + channel) = convolved.next();
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
