// The causal depthwise convolution before a recurrence, with its bias and what was carried in from before the first token.
#pragma once

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

/// One tile's input after the convolution: bias and tail included.
template <int Width, class Recurrence, Real Scalar>
void convolve(const Dressed<Recurrence>& dressed, const ScanInput<Scalar>& input, Index token, Index document, Index channel,
              Lanes<Scalar, Width>& out) {
  if (input.convolution_bias.empty())
    out.setZero();
  else
    out = lanes<Width>(input.convolution_bias.data() + channel);
  const Index width = dressed.width();
  for (Index tap = 0; tap < width; ++tap) {
    const Index source = token - (width - 1) + tap;
    if (source < document) continue;
    const Scalar* numbers = nullptr;
    if (source >= 0 && !input.x.empty()) numbers = input.x.row(source) + channel;
    if (source < 0 && !input.convolution_tail.empty()) numbers = input.convolution_tail.row(width - 1 + source) + channel;
    if (numbers == nullptr) continue;
    Lanes<Scalar, Width> term = lanes<Width>(numbers);
    if (source >= 0 && !dressed.column_scale.empty()) term *= lanes<Width>(dressed.column_scale.row(source) + channel);
    if (!dressed.taps.empty()) term *= lanes<Width>(dressed.taps.row(tap) + channel);
    out += term;
  }
}

}  // namespace detail

/// out = Conv diag(column_scale) x + bias + what the tail gives, (tokens, channels).
template <class Recurrence, Real Scalar = typename Recurrence::ScalarType>
void convolve(const Dressed<Recurrence>& dressed, const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor) {
  for_channel_tiles(dressed.recurrence.channels, executor, [&]<int Width>(Index channel) {
    detail::Marks documents(dressed.convolution_starts);
    for (Index token = 0; token < dressed.recurrence.tokens; ++token) {
      const Index document = documents.last_until(token);
      Lanes<Scalar, Width> a;
      detail::convolve<Width>(dressed, input, token, document < 0 ? -dressed.width() : document, channel, a);
      lanes<Width>(out.data() + token * out.outerStride() + channel) = a;
    }
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
