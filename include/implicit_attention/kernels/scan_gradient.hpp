// The scan in reverse: what every input of a diagonal recurrence gets back, in linear time.
#pragma once

#include <algorithm>
#include <vector>

#include <implicit_attention/kernels/channel_groups.hpp>
#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/recurrence.hpp>
#include <implicit_attention/kernels/state_checkpoints.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Gradients with respect to the inputs of a DiagonalRecurrence and its gate; a matrix is empty where there is no such input.
template <Real Scalar>
struct ScanGradient {
  Matrix<Scalar> input;        ///< (tokens, channels): a, what the recurrence is applied to
  Matrix<Scalar> step;         ///< (tokens, channels); zero at the first token of a document, where the decay is not used
  Matrix<Scalar> query;        ///< (tokens, state)
  Matrix<Scalar> key;          ///< (tokens, state)
  Matrix<Scalar> query_scale;  ///< (tokens, channels)
  Matrix<Scalar> key_scale;    ///< (tokens, channels)
  Matrix<Scalar> diagonal;     ///< (tokens, channels), read_before_update recurrences only
  Matrix<Scalar> gate;         ///< (tokens, channels)
};

namespace detail {

/// What a tile of channels reads and writes of a single token on its way back, and the states that it keeps.
template <int Width, Real Scalar>
class ScanGradientTokens : protected TileRegisters<Width, Scalar> {
 protected:
  using Scratch = ScanGradientScratch<Scalar>;
  using Base = TileRegisters<Width, Scalar>;
  using Base::lane, Base::registers, Base::load, Base::store;
  using typename Base::Register, typename Base::Registers, typename Base::Row;

  ScanGradientTokens(const SurroundedDiagonal<Scalar>& surrounded, ConstView<Scalar> input, const Array<Scalar>& initial_state, Index block,
                     Index channel, const ScanFunctions<Scalar>& functions)
      : recurrence_(&surrounded.recurrence),
        channel_(channel),
        gate_(ArrayRows<Scalar>(surrounded.gate, channel), functions.gate),
        gate_slope_(functions.gate_slope ? ArrayRows<Scalar>(surrounded.gate, channel) : ArrayRows<Scalar>(), functions.gate_slope),
        skip_(surrounded.skip, channel),
        states_(surrounded.recurrence, input, initial_state, block, channel, functions.input) {}

  // A tile's numbers of one token lie far from those of the next one, and no processor foresees so many rows at a time.
  EIGEN_ALWAYS_INLINE void prefetch_read(Index token, const ConstView<Scalar>& g, ScanGradient<Scalar>& gradient) const {
    if (token >= recurrence_->tokens) return;
    states_.prefetch_token(token);
    prefetch<Width>(g.data() + token * g.outerStride() + channel_);
    gate_.prefetch_token(token);
    for (Matrix<Scalar>* const written : {&gradient.query_scale, &gradient.gate})
      if (written->size() != 0) prefetch_written<Width>(&(*written)(token, channel_));
  }
  EIGEN_ALWAYS_INLINE void prefetch_step_back(Index token, ScanGradient<Scalar>& gradient) const {
    if (token < 0) return;
    for (Matrix<Scalar>* const written : {&gradient.input, &gradient.step, &gradient.key_scale, &gradient.diagonal})
      if (written->size() != 0) prefetch_written<Width>(&(*written)(token, channel_));
  }

  /// Adds up a token's products over the tile's channels. Products by place of all tokens would leave the second cache no room for states.
  EIGEN_ALWAYS_INLINE void add_sums(Index token, const Scratch& scratch, Scalar* sums) const {
    if (sums == nullptr) return;
    const Index states = recurrence_->state;
    const Scalar* const products = scratch.products.data();
    Scalar* const to = sums + token * states;
    Index n = 0;
    for (; n + lane <= states; n += lane) store(to + n, load(to + n) + sums_of_rows<Scalar, lane>(products + n * lane));
    for (; n < states; ++n) to[n] += sum_of<Scalar, lane>(load(products + n * lane));
  }

  /// g at a token, register `r` of it, past the gate.
  EIGEN_ALWAYS_INLINE Register gated(Index token, int r, const ConstView<Scalar>& g) const {
    const Register weight = load(g.data() + token * g.outerStride() + channel_ + r * lane);
    return gate_.empty() ? weight : Register(weight * load(gate_.row(token) + r * lane));
  }
  /// What a token's output takes of its input past the states: the skip, and the diagonal.
  template <bool ReadsBefore>
  EIGEN_ALWAYS_INLINE Register direct(Index token, int r) const {
    Register share = skip_.empty() ? Registers::zero() : load(skip_.row(0) + r * lane);
    if constexpr (ReadsBefore) share += load(recurrence_->diagonal.row(token) + channel_ + r * lane);
    return share;
  }

  const DiagonalRecurrence<Scalar>* recurrence_;
  Index channel_;
  TileNumbers<Width, Scalar> gate_, gate_slope_;
  ArrayRows<Scalar> skip_;
  StateCheckpoints<Width, Scalar> states_;
};

/// One tile of channels, walked back block by block. In each, the states are computed again from the one kept at its beginning.
template <int Width, Real Scalar>
class ScanGradientTile : private ScanGradientTokens<Width, Scalar> {
  using Base = ScanGradientTokens<Width, Scalar>;

 public:
  using typename Base::Scratch;

  ScanGradientTile(const SurroundedDiagonal<Scalar>& surrounded, ConstView<Scalar> input, const Array<Scalar>& initial_state, Index block,
                   Index channel, const ScanFunctions<Scalar>& functions)
      : Base(surrounded, input, initial_state, block, channel, functions),
        adjoint_(LaneRows<Scalar, Width>::Zero(surrounded.recurrence.state)) {}

  /// Keeps the states at the beginning of every block.
  void walk_forwards(Scratch& scratch) { states_.walk_forwards(scratch); }

  /// Goes back through tokens begin .. end - 1 of one block; blocks are taken from the last to the first. Writes the tile's columns of the
  /// gradients and adds its part of the sums over channels to `query_sums` and `key_sums`, (tokens, state), null where there are no queries
  /// or keys.
  void walk_back(Index begin, Index end, ConstView<Scalar> g, ScanGradient<Scalar>& gradient, Scalar* query_sums, Scalar* key_sums,
                 Scratch& scratch) {
    const Index states = recurrence_->state, row = states * Width;
    Scalar *const met = scratch.met.data(), *const decays = scratch.decays.data();
    std::copy_n(states_.at(begin), row, met);
    states_.enter(begin, end, scratch);
    gate_.enter(begin, end, scratch.gate);
    gate_slope_.enter(begin, end, scratch.gate_slope);
    const auto run = [&]<bool ReadsBefore>() {
      for (Index token = begin; token < end; ++token) {
        const Index at = token - begin;
        prefetch_read(token + tokens_in_a_run, g, gradient);
        read<ReadsBefore>(token, scratch, decays + at * row, met + at * row, g, gradient);
        add_sums(token, scratch, query_sums);
      }
      for (Index token = end - 1; token >= begin; --token) {
        const Index at = token - begin;
        prefetch_step_back(token - tokens_in_a_run, gradient);
        step_back<ReadsBefore>(token, scratch, decays + at * row, met + at * row, g, gradient);
        add_sums(token, scratch, key_sums);
      }
    };
    if (recurrence_->read_before_update)
      run.template operator()<true>();
    else
      run.template operator()<false>();
  }

 private:
  using Base::add_sums, Base::gated, Base::prefetch_read, Base::prefetch_step_back;
  using Base::lane, Base::registers, Base::load, Base::store;
  using Base::recurrence_, Base::channel_, Base::states_, Base::gate_, Base::gate_slope_;
  using typename Base::Register, typename Base::Registers, typename Base::Row;

  /// Advances the state by one token, and makes the gradients that need only the state: those of the query, as products, its scale and the
  /// gate.
  template <bool ReadsBefore>
  IMPLICIT_ATTENTION_FLATTEN void read(Index token, Scratch& scratch, Scalar* decays, Scalar* met, const ConstView<Scalar>& g,
                                       ScanGradient<Scalar>& gradient) const {
    const Index states = recurrence_->state;
    const auto [query, key, scale, read_scale, a] = states_.parts(token, scratch);
    const bool fresh = states_.starts_at(token);  // nothing decays into a document, whatever its step holds
    if (fresh) std::fill_n(met, states * Width, Scalar(0));
    Row value, weights, sums, step;
    IMPLICIT_ATTENTION_UNROLL
    for (int r = 0; r < registers; ++r) {
      value[r] = load(a + r * lane) * load(scale + r * lane);
      weights[r] = gated(token, r, g) * load(read_scale + r * lane);
      step[r] = load(states_.steps(token) + r * lane);
      sums[r] = Registers::zero();
    }
    for (Index n = 0; n < states; ++n) {
      Register product = Registers::zero();
      IMPLICIT_ATTENTION_UNROLL
      for (int r = 0; r < registers; ++r) {
        const Index at = n * Width + r * lane;
        const Register decay = fresh ? Registers::zero() : Register(states_.decay(n, r, step[r])), before = load(met + at),
                       after = decay * before + key[n] * value[r];
        store(decays + at, decay);
        store(met + states * Width + at, after);
        const Register seen = ReadsBefore ? before : after;
        sums[r] += query[n] * seen;
        product += weights[r] * seen;
      }
      store(scratch.products.data() + n * lane, product);
    }
    IMPLICIT_ATTENTION_UNROLL
    for (int r = 0; r < registers; ++r) {
      const Index column = channel_ + r * lane;
      if (gradient.query_scale.size() != 0) store(&gradient.query_scale(token, column), gated(token, r, g) * sums[r]);
      if (gradient.gate.size() == 0) continue;
      Register gate_gradient = load(g.data() + token * g.outerStride() + column) *
                               (load(read_scale + r * lane) * sums[r] + Base::template direct<ReadsBefore>(token, r) * load(a + r * lane));
      if (!gate_slope_.empty()) gate_gradient *= load(gate_slope_.row(token) + r * lane);
      store(&gradient.gate(token, column), gate_gradient);
    }
  }

  /// `adjoint_` comes as the gradient with respect to the state after `token`, as later tokens have it, and leaves as that before it.
  template <bool ReadsBefore>
  IMPLICIT_ATTENTION_FLATTEN void step_back(Index token, Scratch& scratch, const Scalar* decay, const Scalar* met,
                                            const ConstView<Scalar>& g, ScanGradient<Scalar>& gradient) {
    const auto [query, key, scale, read_scale, a] = states_.parts(token, scratch);
    const Scalar* const rate = states_.rate();
    const bool fresh = states_.starts_at(token);
    Scalar* const adjoint = adjoint_.data();
    Row value, weights, value_gradient, step_gradient;
    IMPLICIT_ATTENTION_UNROLL
    for (int r = 0; r < registers; ++r) {
      value[r] = load(a + r * lane) * load(scale + r * lane);
      weights[r] = gated(token, r, g) * load(read_scale + r * lane);
      value_gradient[r] = step_gradient[r] = Registers::zero();
    }
    for (Index n = 0; n < recurrence_->state; ++n) {
      Register product = Registers::zero();
      IMPLICIT_ATTENTION_UNROLL
      for (int r = 0; r < registers; ++r) {
        const Index at = n * Width + r * lane;
        Register lambda = load(adjoint + at);
        if constexpr (!ReadsBefore) lambda += query[n] * weights[r];
        value_gradient[r] += key[n] * lambda;
        product += value[r] * lambda;
        lambda *= load(decay + at);
        step_gradient[r] += load(rate + at) * lambda * load(met + at);
        if constexpr (ReadsBefore)
          if (!fresh) lambda += query[n] * weights[r];
        store(adjoint + at, lambda);
      }
      store(scratch.products.data() + n * lane, product);
    }
    if (fresh) {  // nothing goes into the document before, NaN neither
      std::fill_n(adjoint, recurrence_->state * Width, Scalar(0));
      for (int r = 0; r < registers; ++r) step_gradient[r] = Registers::zero();
    }
    IMPLICIT_ATTENTION_UNROLL
    for (int r = 0; r < registers; ++r) {
      const Index column = channel_ + r * lane;
      if (!recurrence_->key_scale.empty()) {
        const Register scale_gradient = value_gradient[r] * load(a + r * lane);
        if (gradient.key_scale.size() != 0)
          store(&gradient.key_scale(token, column), scale_gradient);
        else
          step_gradient[r] += scale_gradient;
        value_gradient[r] *= load(scale + r * lane);
      }
      store(&gradient.step(token, column), step_gradient[r]);
      value_gradient[r] += Base::template direct<ReadsBefore>(token, r) * gated(token, r, g);
      if constexpr (ReadsBefore) store(&gradient.diagonal(token, column), gated(token, r, g) * load(a + r * lane));
      store(&gradient.input(token, column), value_gradient[r]);
    }
  }

  LaneRows<Scalar, Width> adjoint_;  // the gradient with respect to the states
};

}  // namespace detail

/// Given y = gate (R + diag(skip)) a (+ what `initial_state` (state, channels) gives, a constant) and g = dL/dy (tokens, channels), the
/// gradients with respect to a, the gate and everything R is made of; nothing else of `surrounded` is read. `one_step`: the key's scale is
/// the step itself, so that `step` is to have the gradient of both and `key_scale` to be empty. `functions`: what a and the gate are made by
/// of the numbers that are given in their places. Time linear in tokens, channels and state;
/// memory linear in tokens, states being kept for one token a block. Sums over channels are joined group after group, so the result is the
/// same for any number of workers.
template <Real Scalar>
[[nodiscard]] ScanGradient<Scalar> scan_gradient(const SurroundedDiagonal<Scalar>& surrounded, ConstView<Scalar> a,
                                                 const Array<Scalar>& initial_state, ConstView<Scalar> g,
                                                 const Executor& executor = serial_executor(), bool one_step = false,
                                                 const ScanFunctions<Scalar>& functions = {}) {
  const DiagonalRecurrence<Scalar>& recurrence = surrounded.recurrence;
  const Index tokens = recurrence.tokens, channels = recurrence.channels, states = recurrence.state;
  recurrence.check();
  check_shape("scan_gradient", "a", a, tokens, channels, "(tokens, channels)");
  check_shape("scan_gradient", "g", g, tokens, channels, "(tokens, channels)");
  if (!initial_state.empty()) check_shape("scan_gradient", "initial_state", initial_state, states, channels, "(state, channels)");

  ScanGradient<Scalar> gradient;
  gradient.input.resize(tokens, channels);
  gradient.step.resize(tokens, channels);
  if (!recurrence.query_scale.empty()) gradient.query_scale.resize(tokens, channels);
  if (!recurrence.key_scale.empty() && !one_step) gradient.key_scale.resize(tokens, channels);
  if (recurrence.read_before_update) gradient.diagonal.resize(tokens, channels);
  if (!surrounded.gate.empty()) gradient.gate.resize(tokens, channels);
  const detail::ChannelGroups groups(channel_runs(channels));
  const auto parts_of = [&](const Array<Scalar>& wanted) {  // (groups * tokens, state)
    return wanted.empty() ? Matrix<Scalar>() : Matrix<Scalar>(Matrix<Scalar>::Zero(groups.count() * tokens, states));
  };
  Matrix<Scalar> query_parts = parts_of(recurrence.query), key_parts = parts_of(recurrence.key);

  detail::run_loop(executor, groups.count(), [&](Index group) {
    detail::ScanGradientScratch<Scalar> scratch(recurrence);
    auto tiles = groups.tiles(group, [&]<int Width>(const ChannelRun& run) {
      return detail::ScanGradientTile<Width, Scalar>(surrounded, a, initial_state, scratch.block, run.channel, functions);
    });
    tiles.each([&](auto& tile) { tile.walk_forwards(scratch); });
    const auto part_in = [&](Matrix<Scalar>& parts) { return parts.size() == 0 ? nullptr : &parts(group * tokens, 0); };
    for (Index end = tokens; end > 0;) {
      const Index begin = (end - 1) / scratch.block * scratch.block;
      tiles.each([&](auto& tile) { tile.walk_back(begin, end, g, gradient, part_in(query_parts), part_in(key_parts), scratch); });
      end = begin;
    }
  });

  const auto join = [&](const Matrix<Scalar>& parts, Matrix<Scalar>& out) {
    if (parts.size() == 0) return;
    out = parts.topRows(tokens);
    for (Index group = 1; group < groups.count(); ++group) out += parts.middleRows(group * tokens, tokens);
  };
  join(query_parts, gradient.query);
  join(key_parts, gradient.key);
  return gradient;
}
/// The same for y = R a.
template <Real Scalar>
[[nodiscard]] ScanGradient<Scalar> scan_gradient(const DiagonalRecurrence<Scalar>& recurrence, ConstView<Scalar> a,
                                                 const Array<Scalar>& initial_state, ConstView<Scalar> g,
                                                 const Executor& executor = serial_executor()) {
  SurroundedDiagonal<Scalar> alone;
  alone.recurrence = recurrence;
  return scan_gradient<Scalar>(alone, a, initial_state, g, executor);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
