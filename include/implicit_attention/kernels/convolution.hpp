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

/// One tile's input after the convolution: bias and tail included. `document` is the first token that the convolution sees.
template <int Width, class Recurrence, Real Scalar>
[[nodiscard]] Lanes<Scalar, Width> convolve(const Dressed<Recurrence>& dressed, const ScanInput<Scalar>& input, Index token, Index document,
                                            Index channel) {
  using Lane = Lanes<Scalar, Width>;
  Lane sum = Lane::Zero();
  if (!input.convolution_bias.empty()) sum = lanes<Width>(input.convolution_bias.data() + channel);
  const Index width = dressed.width(), oldest = token - (width - 1);
  const auto tapped = [&](const Scalar* numbers, Index source) -> Lane {
    if (dressed.taps.empty()) return lanes<Width>(numbers);
    return lanes<Width>(numbers) * lanes<Width>(dressed.taps.row(source - oldest) + channel);
  };
  if (!input.convolution_tail.empty())
    for (Index source = std::max(oldest, document); source < 0; ++source)
      sum += tapped(input.convolution_tail.row(width - 1 + source) + channel, source);
  if (input.x.empty()) return sum;
  for (Index source = std::max({oldest, document, Index(0)}); source <= token; ++source) {
    Lane term = tapped(input.x.row(source) + channel, source);
    if (!dressed.column_scale.empty()) term *= lanes<Width>(dressed.column_scale.row(source) + channel);
    sum += term;
  }
  return sum;
}

}  // namespace detail

/// out = Conv diag(column_scale) x + bias + what the tail gives, (tokens, channels).
template <class Recurrence, Real Scalar = typename Recurrence::ScalarType>
void convolve(const Dressed<Recurrence>& dressed, const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor) {
  for_channel_tiles(dressed.recurrence.channels, executor, [&]<int Width>(Index channel) {
    detail::Marks documents(dressed.convolution_starts);
    for (Index token = 0; token < dressed.recurrence.tokens; ++token) {
      const Index document = documents.last_until(token);
      lanes<Width>(out.data() + token * out.outerStride() + channel) =
          detail::convolve<Width>(dressed, input, token, document < 0 ? -dressed.width() : document, channel);
    }
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
