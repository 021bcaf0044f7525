// Applications in linear time: y = A x and its transpose, walked token by token over tiles of channels.
#pragma once

#include <implicit_attention/kernels/convolution.hpp>
#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/recurrence.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// What a walk reads of one token, asked for ahead.
template <int Width, Real Scalar>
EIGEN_ALWAYS_INLINE void prefetch_token(const DressedDiagonal<Scalar>& dressed, Index token, Index channel) {
  for (const Array<Scalar>* array : {&dressed.recurrence.step, &dressed.recurrence.query_scale, &dressed.recurrence.key_scale,
                                     &dressed.recurrence.diagonal, &dressed.inner_scale, &dressed.row_scale, &dressed.column_scale})
    prefetch<Width>(*array, token, channel);
}

template <int Width, Real Scalar>
IMPLICIT_ATTENTION_FLATTEN void scan_tile(const DressedDiagonal<Scalar>& dressed, const ScanInput<Scalar>& input, Index channel,
                                          View<Scalar> out, View<Scalar>* final_state) {
  using Lane = Lanes<Scalar, Width>;
  const DiagonalRecurrence<Scalar>& recurrence = dressed.recurrence;
  const Index states = recurrence.state;
  LaneRows<Scalar, Width> state(states, Width);
  if (input.initial_state.empty())
    state.setZero();
  else
    for (Index n = 0; n < states; ++n) state.row(n) = lanes<Width>(input.initial_state.row(n) + channel);

  const LaneRows<Scalar, Width> rate = lane_rows<Width>(recurrence.rate, channel);
  ConvolvedInput<Width, DiagonalRecurrence<Scalar>> convolved(dressed, input, channel);
  Marks documents(recurrence.starts);
  for (Index token = 0; token < recurrence.tokens; ++token) {
    prefetch_token<Width>(dressed, token + tokens_ahead, channel);
    prefetch<Width>(input.x, token + tokens_ahead, channel);
    Lane a = convolved.next();
    if (!dressed.inner_scale.empty()) a *= lanes<Width>(dressed.inner_scale.row(token) + channel);
    const bool starts = documents.last_until(token) == token;
    if (starts) state.setZero();

    const Scalar* query = recurrence.query.empty() ? nullptr : recurrence.query.row(token);
    const Scalar* key = recurrence.key.empty() ? nullptr : recurrence.key.row(token);
    Lane step = lanes<Width>(recurrence.step.row(token) + channel);
    if (starts) step.setZero();  // nothing is there to decay, whatever stands there
    Lane written = a;
    if (!recurrence.key_scale.empty()) written *= lanes<Width>(recurrence.key_scale.row(token) + channel);
    Lane y = Lane::Zero();
    if (recurrence.exclusive)
      for (Index n = 0; n < states; ++n) y += (query ? query[n] : Scalar(1)) * state.row(n);
    for (Index n = 0; n < states; ++n) {
      Lane decay;
      if (recurrence.rate.empty())
        decay = step.exp();
      else
        decay = (rate.row(n) * step).exp();
      state.row(n) = decay * state.row(n) + (key ? key[n] : Scalar(1)) * written;
      if (!recurrence.exclusive) y += (query ? query[n] : Scalar(1)) * state.row(n);
    }
    if (!recurrence.query_scale.empty()) y *= lanes<Width>(recurrence.query_scale.row(token) + channel);
    if (recurrence.exclusive) y += lanes<Width>(recurrence.diagonal.row(token) + channel) * a;
    if (!dressed.skip.empty()) y += lanes<Width>(dressed.skip.data() + channel) * a;
    if (!dressed.row_scale.empty()) y *= lanes<Width>(dressed.row_scale.row(token) + channel);
    lanes<Width>(out.data() + token * out.outerStride() + channel) = y;
  }
  if (final_state)
    for (Index n = 0; n < states; ++n) lanes<Width>(final_state->data() + n * final_state->outerStride() + channel) = state.row(n);
}

template <int Width, Real Scalar>
IMPLICIT_ATTENTION_FLATTEN void scan_transposed_tile(const DressedDiagonal<Scalar>& dressed, ConstView<Scalar> g, Index channel,
                                                     View<Scalar> out) {
  using Lane = Lanes<Scalar, Width>;
  const DiagonalRecurrence<Scalar>& recurrence = dressed.recurrence;
  const Index states = recurrence.state, width = dressed.width();
  LaneRows<Scalar, Width> state(states, Width);
  state.setZero();
  const Index ring = ring_size(width);
  LaneRows<Scalar, Width> recent(ring, Width);  // after the recurrence, before the convolution
  const LaneRows<Scalar, Width> rate = lane_rows<Width>(recurrence.rate, channel), taps = lane_rows<Width>(dressed.taps, channel);
  auto next_start = recurrence.starts.rbegin();

  for (Index token = recurrence.tokens - 1; token >= 0; --token) {
    prefetch_token<Width>(dressed, token - tokens_ahead, channel);
    if (token >= tokens_ahead) prefetch<Width>(g.data() + (token - tokens_ahead) * g.outerStride() + channel);
    Lane weight = lanes<Width>(g.data() + token * g.outerStride() + channel);
    if (!dressed.row_scale.empty()) weight *= lanes<Width>(dressed.row_scale.row(token) + channel);
    Lane read = weight;
    if (!recurrence.query_scale.empty()) read *= lanes<Width>(recurrence.query_scale.row(token) + channel);
    const Scalar* query = recurrence.query.empty() ? nullptr : recurrence.query.row(token);
    const Scalar* key = recurrence.key.empty() ? nullptr : recurrence.key.row(token);
    const Lane step = lanes<Width>(recurrence.step.row(token) + channel);
    Lane s = Lane::Zero();
    for (Index n = 0; n < states; ++n) {
      const Lane added = (query ? query[n] : Scalar(1)) * read;
      Lane walked = state.row(n);
      if (!recurrence.exclusive) walked += added;
      s += (key ? key[n] : Scalar(1)) * walked;
      if (recurrence.rate.empty())
        walked *= step.exp();
      else
        walked *= (rate.row(n) * step).exp();
      if (recurrence.exclusive) walked += added;
      state.row(n) = walked;
    }
    if (next_start != recurrence.starts.rend() && *next_start == token) {
      state.setZero();
      ++next_start;
    }
    if (!recurrence.key_scale.empty()) s *= lanes<Width>(recurrence.key_scale.row(token) + channel);
    if (recurrence.exclusive) s += lanes<Width>(recurrence.diagonal.row(token) + channel) * weight;
    if (!dressed.skip.empty()) s += lanes<Width>(dressed.skip.data() + channel) * weight;
    if (!dressed.inner_scale.empty()) s *= lanes<Width>(dressed.inner_scale.row(token) + channel);
    recent.row(token & (ring - 1)) = s;

    Lane sum = Lane::Zero();
    const Index last = dressed.last_reached(token);
    for (Index reached = token; reached <= last; ++reached) {
      if (dressed.taps.empty())
        sum += recent.row(reached & (ring - 1));
      else
        sum += taps.row(width - 1 - (reached - token)) * recent.row(reached & (ring - 1));
    }
    if (!dressed.column_scale.empty()) sum *= lanes<Width>(dressed.column_scale.row(token) + channel);
    lanes<Width>(out.data() + token * out.outerStride() + channel) = sum;
  }
}

}  // namespace detail

/// out = A x + (what the bias, the tail and the initial state give), (tokens, channels); the state after the last token into `final_state`
/// (state, channels) if it is wanted. Linear in tokens, channels and state.
template <Real Scalar>
void scan(const DressedDiagonal<Scalar>& dressed, const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor,
          View<Scalar>* final_state = nullptr) {
  for_channel_tiles(dressed.recurrence.channels, executor,
                    [&]<int Width>(Index channel) { detail::scan_tile<Width>(dressed, input, channel, out, final_state); });
}

/// out = A^T g, (tokens, channels). Linear in tokens, channels and state.
template <Real Scalar>
void scan_transposed(const DressedDiagonal<Scalar>& dressed, ConstView<Scalar> g, View<Scalar> out, const Executor& executor) {
  for_channel_tiles(dressed.recurrence.channels, executor,
                    [&]<int Width>(Index channel) { detail::scan_transposed_tile<Width>(dressed, g, channel, out); });
}

/// The same for a matrix that is given. There is no state that decays: `initial_state` is what the past gives each token. Quadratic in
/// tokens.
template <Real Scalar>
void scan(const DressedExplicit<Scalar>& dressed, const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor,
          View<Scalar>* = nullptr) {
  const ExplicitRecurrence<Scalar>& recurrence = dressed.recurrence;
  Matrix<Scalar> inner(recurrence.tokens, recurrence.channels);
  convolve(dressed, input, View<Scalar>(inner), executor);
  if (!dressed.inner_scale.empty()) inner.array() *= dressed.inner_scale.matrix().array();
  const Index per_head = recurrence.channels / recurrence.heads;
  executor(recurrence.heads, [&](Index head) {
    out.middleCols(head * per_head, per_head).noalias() =
        recurrence.weights.matrix().middleRows(head * recurrence.tokens, recurrence.tokens) * inner.middleCols(head * per_head, per_head);
  });
  if (!input.initial_state.empty()) out += input.initial_state.matrix();
  if (!dressed.skip.empty()) out.array() += inner.array().rowwise() * dressed.skip.matrix().row(0).array();
  if (!dressed.row_scale.empty()) out.array() *= dressed.row_scale.matrix().array();
}

/// The same transposed.
template <Real Scalar>
void scan_transposed(const DressedExplicit<Scalar>& dressed, ConstView<Scalar> g, View<Scalar> out, const Executor& executor) {
  const ExplicitRecurrence<Scalar>& recurrence = dressed.recurrence;
  Matrix<Scalar> weighted = g;
  if (!dressed.row_scale.empty()) weighted.array() *= dressed.row_scale.matrix().array();
  Matrix<Scalar> inner(recurrence.tokens, recurrence.channels);
  const Index per_head = recurrence.channels / recurrence.heads;
  executor(recurrence.heads, [&](Index head) {
    inner.middleCols(head * per_head, per_head).noalias() =
        recurrence.weights.matrix().middleRows(head * recurrence.tokens, recurrence.tokens).transpose() *
        weighted.middleCols(head * per_head, per_head);
  });
  if (!dressed.skip.empty()) inner.array() += weighted.array().rowwise() * dressed.skip.matrix().row(0).array();
  if (!dressed.inner_scale.empty()) inner.array() *= dressed.inner_scale.matrix().array();
  const Index width = dressed.width();
  for (Index token = 0; token < recurrence.tokens; ++token) {
    out.row(token).setZero();
    for (Index reached = token; reached <= dressed.last_reached(token); ++reached) {
      if (dressed.taps.empty())
        out.row(token) += inner.row(reached);
      else
        out.row(token).array() += dressed.taps.matrix().row(width - 1 - (reached - token)).array() * inner.row(reached).array();
    }
  }
  if (!dressed.column_scale.empty()) out.array() *= dressed.column_scale.matrix().array();
}

IMPLICIT_ATTENTION_NAMESPACE_END
