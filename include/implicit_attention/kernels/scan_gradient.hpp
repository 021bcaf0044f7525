// The scan in reverse: what every input of a diagonal recurrence gets back, in linear time.
#pragma once

#include <algorithm>
#include <vector>

#include <implicit_attention/kernels/channel_groups.hpp>
#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/recurrence.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Gradients with respect to the inputs of a DiagonalRecurrence; a matrix is empty where the recurrence has no such input.
template <Real Scalar>
struct ScanGradient {
  Matrix<Scalar> input;        ///< (tokens, channels): a, what the recurrence is applied to; R^T g
  Matrix<Scalar> step;         ///< (tokens, channels); zero at the first token of a document, where the decay is not used
  Matrix<Scalar> query;        ///< (tokens, state)
  Matrix<Scalar> key;          ///< (tokens, state)
  Matrix<Scalar> query_scale;  ///< (tokens, channels)
  Matrix<Scalar> key_scale;    ///< (tokens, channels)
  Matrix<Scalar> diagonal;     ///< (tokens, channels), read_before_update recurrences only
};

namespace detail {

/// One tile of channels. States are not kept for all tokens but for one in IMPLICIT_ATTENTION_BLOCK_TOKENS; each block's are
/// computed again when the walk back reaches it.
template <int Width, Real Scalar>
class ScanGradientTile {
 public:
  using Lane = Lanes<Scalar, Width>;

  ScanGradientTile(const DiagonalRecurrence<Scalar>& recurrence, ConstView<Scalar> input, Index channel)
      : recurrence_(recurrence), input_(input), channel_(channel), state_(recurrence.state, Width) {}

  /// Writes the tile's columns of the gradients, and its part of the sums over channels, (tokens * state) each, where they are not null.
  void run(const Array<Scalar>& initial_state, ConstView<Scalar> g, ScanGradient<Scalar>& gradient, Scalar* query_part, Scalar* key_part) {
    const Index tokens = recurrence_.tokens, states = recurrence_.state, blocks = (tokens + block - 1) / block;
    LaneRows<Scalar, Width> checkpoints(blocks * states, Width);
    previous_.resize(std::min(block, tokens) * states, Width);
    decay_.resize(previous_.rows(), Width);
    if (initial_state.empty())
      state_.setZero();
    else
      for (Index n = 0; n < states; ++n) state_.row(n) = lanes<Width>(initial_state.row(n) + channel_);
    for (Index b = 0; b < blocks; ++b) {
      checkpoints.middleRows(b * states, states) = state_;
      if (b + 1 < blocks) walk_forwards<false>(b * block, (b + 1) * block);
    }
    LaneRows<Scalar, Width> adjoint(states, Width);
    adjoint.setZero();
    for (Index b = blocks - 1; b >= 0; --b) {
      const Index end = std::min((b + 1) * block, tokens);
      state_ = checkpoints.middleRows(b * states, states);
      walk_forwards<true>(b * block, end);
      for (Index token = end - 1; token >= b * block; --token)
        step_back(token, (token - b * block) * states, g, adjoint, gradient, query_part ? query_part + token * states : nullptr,
                  key_part ? key_part + token * states : nullptr);
    }
  }

 private:
  static constexpr Index block = IMPLICIT_ATTENTION_BLOCK_TOKENS;

  [[nodiscard]] bool starts_at(Index token) const {
    return std::binary_search(recurrence_.starts.begin(), recurrence_.starts.end(), token);
  }
  [[nodiscard]] Lane written(Index token) const {
    Lane value = lanes<Width>(input_.data() + token * input_.outerStride() + channel_);
    if (!recurrence_.key_scale.empty()) value *= lanes<Width>(recurrence_.key_scale.row(token) + channel_);
    return value;
  }

  /// Takes `state_` from before token `begin` to after token `end - 1`; keeps, if asked to, every token's decays and the state it met.
  template <bool Keep>
  IMPLICIT_ATTENTION_FLATTEN void walk_forwards(Index begin, Index end) {
    const Index states = recurrence_.state;
    for (Index token = begin; token < end; ++token) {
      const Lane value = written(token), step = lanes<Width>(recurrence_.step.row(token) + channel_);
      const Scalar* key = recurrence_.key.empty() ? nullptr : recurrence_.key.row(token);
      const bool fresh = starts_at(token);
      if (fresh) state_.setZero();
      for (Index n = 0; n < states; ++n) {
        Lane decay;
        if (fresh)
          decay.setZero();  // the decay into a document is never used, whatever its step holds
        else if (recurrence_.rate.empty())
          decay = step.exp();
        else
          decay = (lanes<Width>(recurrence_.rate.row(n) + channel_) * step).exp();
        if constexpr (Keep) {
          decay_.row((token - begin) * states + n) = decay;
          previous_.row((token - begin) * states + n) = state_.row(n);
        }
        state_.row(n) = decay * state_.row(n) + (key ? key[n] : Scalar(1)) * value;
      }
    }
  }

  /// `adjoint` comes as the gradient with respect to the state after `token`, as later tokens have it, and leaves as that before it.
  IMPLICIT_ATTENTION_FLATTEN void step_back(Index token, Index kept, ConstView<Scalar> g, LaneRows<Scalar, Width>& adjoint,
                                            ScanGradient<Scalar>& gradient, Scalar* query_sum, Scalar* key_sum) const {
    const bool read_before_update = recurrence_.read_before_update, fresh = starts_at(token);
    const Scalar* query = recurrence_.query.empty() ? nullptr : recurrence_.query.row(token);
    const Scalar* key = recurrence_.key.empty() ? nullptr : recurrence_.key.row(token);
    const Lane a = lanes<Width>(input_.data() + token * input_.outerStride() + channel_), value = written(token);
    const Lane weight = lanes<Width>(g.data() + token * g.outerStride() + channel_);
    Lane read = weight;
    if (!recurrence_.query_scale.empty()) read *= lanes<Width>(recurrence_.query_scale.row(token) + channel_);

    Lane read_sum = Lane::Zero(), value_gradient = Lane::Zero(), step_gradient = Lane::Zero();
    for (Index n = 0; n < recurrence_.state; ++n) {
      const Scalar q = query ? query[n] : Scalar(1), k = key ? key[n] : Scalar(1);
      const Lane before = previous_.row(kept + n), decay = decay_.row(kept + n);
      const Lane seen = read_before_update ? before : Lane(decay * before + k * value);
      Lane lambda = adjoint.row(n);
      if (!read_before_update) lambda += q * read;
      read_sum += q * seen;
      value_gradient += k * lambda;
      if (query_sum) query_sum[n] = (read * seen).sum();
      if (key_sum) key_sum[n] = (value * lambda).sum();
      lambda *= decay;
      if (recurrence_.rate.empty())
        step_gradient += lambda * before;
      else
        step_gradient += lanes<Width>(recurrence_.rate.row(n) + channel_) * lambda * before;
      if (read_before_update && !fresh) lambda += q * read;
      adjoint.row(n) = lambda;
    }

    put(gradient.step, token, step_gradient);
    if (!recurrence_.query_scale.empty()) put(gradient.query_scale, token, weight * read_sum);
    if (!recurrence_.key_scale.empty()) {
      put(gradient.key_scale, token, value_gradient * a);
      value_gradient *= lanes<Width>(recurrence_.key_scale.row(token) + channel_);
    }
    if (read_before_update) {
      value_gradient += lanes<Width>(recurrence_.diagonal.row(token) + channel_) * weight;
      put(gradient.diagonal, token, weight * a);
    }
    put(gradient.input, token, value_gradient);
  }

  void put(Matrix<Scalar>& out, Index token, const Lane& numbers) const {
    lanes<Width>(out.data() + token * out.cols() + channel_) = numbers;
  }

  const DiagonalRecurrence<Scalar>& recurrence_;
  ConstView<Scalar> input_;
  Index channel_;
  LaneRows<Scalar, Width> state_, previous_, decay_;
};

}  // namespace detail

/// Given y = R a (+ what `initial_state` (state, channels) gives, a constant) and g = dL/dy (tokens, channels), the gradients with
/// respect to a and everything R is made of. Time linear in tokens, channels and state; memory linear in tokens, states being kept for
/// one token a block. Sums over channels are joined tile after tile, so the result is the same for any number of workers.
template <Real Scalar>
[[nodiscard]] ScanGradient<Scalar> scan_gradient(const DiagonalRecurrence<Scalar>& recurrence, ConstView<Scalar> a,
                                                 const Array<Scalar>& initial_state, ConstView<Scalar> g,
                                                 const Executor& executor = serial_executor()) {
  const Index tokens = recurrence.tokens, channels = recurrence.channels, states = recurrence.state;
  recurrence.check();
  check_shape("scan_gradient", "a", a, tokens, channels, "(tokens, channels)");
  check_shape("scan_gradient", "g", g, tokens, channels, "(tokens, channels)");
  if (!initial_state.empty()) check_shape("scan_gradient", "initial_state", initial_state, states, channels, "(state, channels)");

  ScanGradient<Scalar> gradient;
  gradient.input.resize(tokens, channels);
  gradient.step.resize(tokens, channels);
  if (!recurrence.query_scale.empty()) gradient.query_scale.resize(tokens, channels);
  if (!recurrence.key_scale.empty()) gradient.key_scale.resize(tokens, channels);
  if (recurrence.read_before_update) gradient.diagonal.resize(tokens, channels);
  const Index tiles = static_cast<Index>(channel_runs(channels).size());
  Matrix<Scalar> query_parts, key_parts;  // (tiles * tokens, state)
  if (!recurrence.query.empty()) query_parts.resize(tiles * tokens, states);
  if (!recurrence.key.empty()) key_parts.resize(tiles * tokens, states);

  for_channel_tiles(channels, executor, [&]<int Width>(Index channel, Index tile) {
    const Index first = tile * tokens * states;
    detail::ScanGradientTile<Width, Scalar>(recurrence, a, channel)
        .run(initial_state, g, gradient, query_parts.size() == 0 ? nullptr : query_parts.data() + first,
             key_parts.size() == 0 ? nullptr : key_parts.data() + first);
  });

  const auto join = [&](const Matrix<Scalar>& parts, Matrix<Scalar>& out) {
    if (parts.size() == 0) return;
    out = parts.topRows(tokens);
    for (Index tile = 1; tile < tiles; ++tile) out += parts.middleRows(tile * tokens, tokens);
  };
  join(query_parts, gradient.query);
  join(key_parts, gradient.key);
  return gradient;
}

IMPLICIT_ATTENTION_NAMESPACE_END
