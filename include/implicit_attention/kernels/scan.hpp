// Applications in linear time: y = A x and its transpose, walked token by token, many channels at a time.
#pragma once

#include <algorithm>
#include <vector>

#include <implicit_attention/kernels/channel_groups.hpp>
#include <implicit_attention/kernels/convolution.hpp>
#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/recurrence.hpp>
#include <implicit_attention/kernels/tile_numbers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// One tile of an application.
template <int Width, Real Scalar>
class ScanTile {
 public:
  using Lane = Lanes<Scalar, Width>;

  ScanTile(const SurroundedDiagonal<Scalar>& surrounded, const ScanInput<Scalar>& input, Index channel, const NumberChange<Scalar>& gate)
      : surrounded_(&surrounded),
        input_(&input),
        channel_(channel),
        convolved_(surrounded, input, channel),
        documents_(surrounded.recurrence.starts),
        rows_(surrounded, channel),
        gate_(rows_.gate, gate),
        rate_(rate_rows<Width>(surrounded.recurrence.rate, channel)),
        state_(surrounded.recurrence.state) {
    if (input.initial_state.empty())
      state_.setZero();
    else
      state_ = lane_rows<Width>(input.initial_state, channel);
  }

  /// Goes through tokens begin..end-1, those after the last ones; their part of `out` is written.
  IMPLICIT_ATTENTION_FLATTEN void walk(Index begin, Index end, View<Scalar>& out) {
    const DiagonalRecurrence<Scalar>& recurrence = surrounded_->recurrence;
    const SurroundedRows<Scalar>& rows = rows_;
    const bool read_before_update = recurrence.read_before_update;
    const Index states = recurrence.state, channel = channel_;
    const auto part = [&](const ArrayRows<Scalar>& array, Index token) { return lanes<Width>(array.row(token)); };
    const Scalar* const rates = rate_.data();
    Scalar* const state = state_.data();

    const Scalar* const convolved = convolved_.enter(begin, end);
    gate_.enter(begin, end, made_gate_);
    for (Index token = begin; token < end; ++token) {
      rows.template prefetch_token<Width>(token + tokens_in_a_run);
      if (token + tokens_in_a_run < recurrence.tokens) convolved_.prefetch_token(token + tokens_in_a_run);
      Lane a = lanes<Width>(convolved + (token - begin) * Width);
      if (!rows.activation.empty()) a *= part(rows.activation, token);
      const bool starts = documents_.last_until(token) == token;
      if (starts) state_.setZero();
      const bool empty = starts || (token == 0 && input_->initial_state.empty());  // nothing is there to decay or to be read

      const Scalar* query = rows.query.empty() ? nullptr : rows.query.row(token);
      const Scalar* key = rows.key.empty() ? nullptr : rows.key.row(token);
      Lane step = part(rows.step, token);
      if (empty) step.setZero();
      Lane written = a;
      if (!rows.key_scale.empty()) written *= part(rows.key_scale, token);
      Lane y = Lane::Zero();
      const bool reads = !read_before_update || !empty;
      if (read_before_update && reads)
        for (Index n = 0; n < states; ++n) y += (query ? query[n] : Scalar(1)) * lanes<Width>(state + n * Width);
      for (Index n = 0; n < states; ++n) {
        const Lane decay = (lanes<Width>(rates + n * Width) * step).exp();
        const Lane next = decay * lanes<Width>(state + n * Width) + (key ? key[n] : Scalar(1)) * written;
        lanes<Width>(state + n * Width) = next;
        if (!read_before_update) y += (query ? query[n] : Scalar(1)) * next;
      }
      if (reads && !rows.query_scale.empty()) y *= part(rows.query_scale, token);
      if (read_before_update) y += part(rows.diagonal, token) * a;
      if (!rows.skip.empty()) y += part(rows.skip, 0) * a;
      if (!gate_.empty()) y *= lanes<Width>(gate_.row(token));
      lanes<Width>(out.data() + token * out.outerStride() + channel) = y;
    }
  }

  /// Copies the state after the last token.
  void copy_state(View<Scalar>& out) const {
    for (Index n = 0; n < state_.rows(); ++n) lanes<Width>(out.data() + n * out.outerStride() + channel_) = state_.row(n);
  }

 private:
  const SurroundedDiagonal<Scalar>* surrounded_;
  const ScanInput<Scalar>* input_;
  Index channel_;
  ConvolvedInput<Width, DiagonalRecurrence<Scalar>> convolved_;
  DocumentCursor documents_;
  SurroundedRows<Scalar> rows_;
  TileNumbers<Width, Scalar> gate_;
  RowVector<Scalar> made_gate_;
  LaneRows<Scalar, Width> rate_, state_;
};

/// One tile of a transposed application, from the last token to the first.
template <int Width, Real Scalar>
class TransposedScanTile {
 public:
  using Lane = Lanes<Scalar, Width>;

  TransposedScanTile(const SurroundedDiagonal<Scalar>& surrounded, Index channel)
      : surrounded_(&surrounded),
        channel_(channel),
        starts_left_(surrounded.recurrence.starts.size()),
        rows_(surrounded, channel),
        rate_(rate_rows<Width>(surrounded.recurrence.rate, channel)),
        state_(LaneRows<Scalar, Width>::Zero(surrounded.recurrence.state)),
        convolution_(surrounded, channel, true),
        left_(tokens_in_a_run + surrounded.width() - 1),
        summed_(tokens_in_a_run) {}

  /// Goes through tokens end-1..begin, those before the last ones; their part of `out` is written.
  IMPLICIT_ATTENTION_FLATTEN void walk(Index begin, Index end, const ConstView<Scalar>& g, View<Scalar>& out) {
    const DiagonalRecurrence<Scalar>& recurrence = surrounded_->recurrence;
    const SurroundedRows<Scalar>& rows = rows_;
    const bool read_before_update = recurrence.read_before_update;
    const Index states = recurrence.state, channel = channel_, lead = surrounded_->width() - 1;
    const auto part = [&](const ArrayRows<Scalar>& array, Index token) { return lanes<Width>(array.row(token)); };
    const Scalar* const rates = rate_.data();
    Scalar *const state = state_.data(), *const left = left_.data();

    if (end != recurrence.tokens) carry_rows<Width>(left, 0, end - begin, lead);
    for (Index token = end - 1; token >= begin; --token) {
      rows.template prefetch_token<Width>(token - tokens_in_a_run);
      if (token >= tokens_in_a_run) prefetch<Width>(g.data() + (token - tokens_in_a_run) * g.outerStride() + channel);
      Lane weight = lanes<Width>(g.data() + token * g.outerStride() + channel);
      if (!rows.gate.empty()) weight *= part(rows.gate, token);
      Lane read = weight;
      if (!rows.query_scale.empty()) read *= part(rows.query_scale, token);
      const Scalar* query = rows.query.empty() ? nullptr : rows.query.row(token);
      const Scalar* key = rows.key.empty() ? nullptr : rows.key.row(token);
      Lane step = part(rows.step, token);
      // Nothing reads what the last token of a document writes, where the state is read before its update.
      const bool empty = read_before_update && last_;
      last_ = false;
      if (empty) step.setZero();
      Lane s = Lane::Zero();
      for (Index n = 0; n < states; ++n) {
        const Lane added = (query ? query[n] : Scalar(1)) * read;
        Lane walked = lanes<Width>(state + n * Width);
        if (!read_before_update) walked += added;
        if (!empty) s += (key ? key[n] : Scalar(1)) * walked;
        walked *= (lanes<Width>(rates + n * Width) * step).exp();
        if (read_before_update) walked += added;
        lanes<Width>(state + n * Width) = walked;
      }
      if (starts_left_ > 0 && recurrence.starts[starts_left_ - 1] == token) {
        state_.setZero();
        last_ = true;
        --starts_left_;
      }
      if (!empty && !rows.key_scale.empty()) s *= part(rows.key_scale, token);
      if (read_before_update) s += part(rows.diagonal, token) * weight;
      if (!rows.skip.empty()) s += part(rows.skip, 0) * weight;
      if (!rows.activation.empty()) s *= part(rows.activation, token);
      lanes<Width>(left + (token - begin) * Width) = s;
    }

    Scalar* summed = left;
    if (!surrounded_->taps.empty()) {
      convolution_.apply_transposed(begin, end, recurrence.tokens - 1, left, summed_.data());
      summed = summed_.data();
    }
    scale_rows<Width>(rows.column_weights, begin, end, summed);
    for (Index token = begin; token < end; ++token)
      lanes<Width>(out.data() + token * out.outerStride() + channel) = lanes<Width>(summed + (token - begin) * Width);
  }

 private:
  const SurroundedDiagonal<Scalar>* surrounded_;
  Index channel_;
  std::size_t starts_left_;  // of the documents that the walk has not come to
  bool last_ = true;         // whether the next token is the last of its document
  SurroundedRows<Scalar> rows_;
  LaneRows<Scalar, Width> rate_, state_;
  TileConvolution<Width, DiagonalRecurrence<Scalar>> convolution_;
  LaneRows<Scalar, Width> left_;    // (a run and what the convolution reaches): after the recurrence, before the convolution
  LaneRows<Scalar, Width> summed_;  // (a run): after the convolution
};

}  // namespace detail

/// out = A x + (what the bias, the tail and the initial state give), (tokens, channels); the state after the last token into `final_state`
/// (state, channels) if it is wanted. `gate`: what the gate is made by of the numbers that are given in its place. Linear in tokens, channels
/// and state.
template <Real Scalar>
void scan(const SurroundedDiagonal<Scalar>& surrounded, const ScanInput<Scalar>& input, View<Scalar> out, const Executor& executor,
          View<Scalar>* final_state = nullptr, const NumberChange<Scalar>& gate = {}) {
  const detail::ChannelGroups groups(channel_runs(surrounded.recurrence.channels));
  detail::run_loop(executor, groups.count(), [&](Index group) {
    auto tiles = groups.tiles(
        group, [&]<int Width>(const ChannelRun& run) { return detail::ScanTile<Width, Scalar>(surrounded, input, run.channel, gate); });
    detail::for_token_runs(surrounded.recurrence.tokens,
                           [&](Index begin, Index end) { tiles.each([&](auto& tile) { tile.walk(begin, end, out); }); });
    if (final_state) tiles.each([&](const auto& tile) { tile.copy_state(*final_state); });
  });
}

/// out = A^T g, (tokens, channels). Linear in tokens, channels and state.
template <Real Scalar>
void scan_transposed(const SurroundedDiagonal<Scalar>& surrounded, ConstView<Scalar> g, View<Scalar> out, const Executor& executor) {
  const detail::ChannelGroups groups(channel_runs(surrounded.recurrence.channels));
  detail::run_loop(executor, groups.count(), [&](Index group) {
    auto tiles = groups.tiles(
        group, [&]<int Width>(const ChannelRun& run) { return detail::TransposedScanTile<Width, Scalar>(surrounded, run.channel); });
    for (Index end = surrounded.recurrence.tokens; end > 0; end = std::max(end - detail::tokens_in_a_run, Index(0)))
      tiles.each([&](auto& tile) { tile.walk(std::max(end - detail::tokens_in_a_run, Index(0)), end, g, out); });
  });
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
