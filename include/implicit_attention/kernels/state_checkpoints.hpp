// States of a tile of channels that a walk back meets again: kept at the beginning of every block of tokens, computed again within it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>

#include <implicit_attention/kernels/channel_groups.hpp>
#include <implicit_attention/kernels/lanes.hpp>
#include <implicit_attention/kernels/recurrence.hpp>
#include <implicit_attention/kernels/tile_decays.hpp>
#include <implicit_attention/kernels/tile_numbers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// What the tiles of a group take turns using.
template <Real Scalar>
struct ScanGradientScratch {
  static constexpr int lane = computed_lanes<Scalar>;

  explicit ScanGradientScratch(const DiagonalRecurrence<Scalar>& recurrence)
      : ones(RowVector<Scalar>::Ones(std::max<Index>(recurrence.state, wide_tile))), block(block_of(recurrence.tokens, recurrence.state)) {
    const Index tokens = std::min(block, recurrence.tokens), states = recurrence.state;
    met.resize((tokens + 1) * states, wide_tile);
    decays.resize(tokens * states, wide_tile);
    products.resize(states * lane);
  }
  /// Tokens whose states and decays are kept at a time. What a short text needs comes from the third cache in less time than its
  /// exponentials would take once more (512 tokens, a state of 16: 20 ms instead of 23); of a longer one all blocks but the last are
  /// computed twice anyway.
  [[nodiscard]] static Index block_of(Index tokens, Index states) {
    constexpr Index most = Index(512) * 16;
    return states <= most && tokens <= most / std::max<Index>(states, 1) ? std::max<Index>(tokens, 1) : IMPLICIT_ATTENTION_BLOCK_TOKENS;
  }

  RowVector<Scalar> ones;  ///< in the place of arrays that are not there
  Index block;
  Matrix<Scalar> met, decays;  ///< a tile's, by token of the block and state: the states that tokens meet, and decays into them
  RowVector<Scalar> input, gate, gate_slope;  ///< a tile's, by token of the block, where they are made: see TileNumbers
  RowVector<Scalar> products;                 ///< a token's, by state and place in a register: what is still to be added up over channels
};

/// A row of `Width` channels as registers: no wider than the scratch's products, which are added up by place in one.
template <int Width, Real Scalar>
struct TileRegisters {
  static constexpr int lane = std::gcd(Width, ScanGradientScratch<Scalar>::lane), registers = Width / lane;
  using Registers = LaneRegister<Scalar, lane>;
  using Register = typename Registers::type;
  using Row = Register[static_cast<std::size_t>(registers)];

  [[nodiscard]] static Register load(const Scalar* from) { return Registers::load(from); }
  static void store(Scalar* to, const Register& numbers) { Registers::store(to, numbers); }
};

/// What one token gives to a recurrence: its query and key by state, the rest by channel of a tile; ones where there is no such array.
template <Real Scalar>
struct TokenParts {
  const Scalar *query, *key, *key_scale, *query_scale, *input;
};

/// One tile's states at the beginning of every block, and what takes them on through a block's tokens.
template <int Width, Real Scalar>
class StateCheckpoints : private TileRegisters<Width, Scalar> {
 public:
  using Scratch = ScanGradientScratch<Scalar>;

  /// `input_change`: what the input is made by of the numbers given, see ScanFunctions.
  StateCheckpoints(const DiagonalRecurrence<Scalar>& recurrence, ConstView<Scalar> input, const Array<Scalar>& initial_state, Index block,
                   Index channel, const NumberChange<Scalar>& input_change = {})
      : recurrence_(&recurrence),
        input_(ArrayRows<Scalar>(Array<Scalar>::view(input), channel), input_change),
        block_(block),
        channel_(channel),
        decays_(recurrence.rate, channel),
        begins_(std::max<Index>((recurrence.tokens + block - 1) / block, 1) * recurrence.state) {
    if (initial_state.empty())
      std::fill_n(begins_.data(), recurrence.state * Width, Scalar(0));
    else
      for (Index n = 0; n < recurrence.state; ++n) begins_.row(n) = lanes<Width>(initial_state.row(n) + channel);
  }

  /// Keeps the states at the beginning of every block.
  void walk_forwards(Scratch& scratch) {
    const Index states = recurrence_->state;
    for (Index begin = block_; begin < recurrence_->tokens; begin += block_) {
      Scalar* const state = begins_.data() + begin / block_ * states * Width;
      std::copy_n(state - states * Width, states * Width, state);
      enter(begin - block_, begin, scratch);
      for (Index token = begin - block_; token < begin; ++token) {
        prefetch_token(token + tokens_in_a_run);
        step(token, scratch, state);
      }
    }
  }

  /// Makes the input of tokens begin .. end - 1 of one block, before they are gone through.
  void enter(Index begin, Index end, Scratch& scratch) { input_.enter(begin, end, scratch.input); }

  /// The states, (state, Width), before token `begin`, where a block begins.
  [[nodiscard]] const Scalar* at(Index begin) const { return begins_.data() + begin / block_ * recurrence_->state * Width; }

  [[nodiscard]] const Scalar* rate() const { return decays_.rate(); }
  [[nodiscard]] bool starts_at(Index token) const {
    return std::binary_search(recurrence_->starts.begin(), recurrence_->starts.end(), token);
  }
  /// The tile's steps into a token, and the decays that they make of state `n` in register `r`.
  [[nodiscard]] const Scalar* steps(Index token) const { return recurrence_->step.row(token) + channel_; }
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto decay(Index n, int r, const typename TileDecays<Width, Scalar>::Register::type& step) const {
    return decays_.at(n, r, step);
  }
  /// Asks for a token's numbers by channel.
  EIGEN_ALWAYS_INLINE void prefetch_token(Index token) const {
    if (token >= recurrence_->tokens) return;
    for (const Array<Scalar>* const array : {&recurrence_->step, &recurrence_->key_scale, &recurrence_->query_scale})
      if (!array->empty()) prefetch<Width>(array->row(token) + channel_);
    input_.prefetch_token(token);
  }
  [[nodiscard]] TokenParts<Scalar> parts(Index token, const Scratch& scratch) const {
    const auto row = [&](const Array<Scalar>& array, Index column) {
      return array.empty() ? scratch.ones.data() : array.row(token) + column;
    };
    return {row(recurrence_->query, 0), row(recurrence_->key, 0), row(recurrence_->key_scale, channel_),
            row(recurrence_->query_scale, channel_), input_.row(token)};
  }

 private:
  using Base = TileRegisters<Width, Scalar>;
  using Base::lane, Base::registers, Base::load, Base::store;
  using typename Base::Register, typename Base::Row;

  /// state = decay state + key value. Nothing decays into a document, whatever its step holds.
  IMPLICIT_ATTENTION_FLATTEN void step(Index token, const Scratch& scratch, Scalar* state) const {
    const TokenParts<Scalar> of = parts(token, scratch);
    const bool fresh = starts_at(token);
    Row value, by;
    IMPLICIT_ATTENTION_UNROLL
    for (int r = 0; r < registers; ++r) {
      value[r] = load(of.input + r * lane) * load(of.key_scale + r * lane);
      by[r] = load(steps(token) + r * lane);
    }
    for (Index n = 0; n < recurrence_->state; ++n) IMPLICIT_ATTENTION_UNROLL
    for (int r = 0; r < registers; ++r) {
      const Index at = n * Width + r * lane;
      const Register written = of.key[n] * value[r];
      store(state + at, fresh ? written : Register(decays_.at(n, r, by[r]) * load(state + at) + written));
    }
  }

  const DiagonalRecurrence<Scalar>* recurrence_;
  TileNumbers<Width, Scalar> input_;
  Index block_, channel_;
  TileDecays<Width, Scalar> decays_;
  LaneRows<Scalar, Width> begins_;  // (blocks * state)
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
