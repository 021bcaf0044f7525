// One row of all channels' matrices of a state space layer in float: the walk of kernels/row_walk.hpp for what a stream asks of it most,
// the newest row, where the exponentials of channels * states * tokens decays are nearly all of the time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/kernels/recurrence.hpp>
#include <implicit_attention/kernels/transpose.hpp>
#include <implicit_attention/operator/reduction.hpp>
#include <implicit_attention/operator/unified_form.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Channels that are walked together, and tokens that a group of them goes through before the next group.
constexpr Index row_lanes = 16, row_piece = 64, row_group = 8;

/// sums[c] += sum_i weights[i] 2^(rates[states[i]][c] elapsed[c]), every exponent between minus infinity and 0. 2^(k + r) is 2^k, by its
/// bits, times a polynomial of degree 6 in r, |r| <= 1/2: the interpolation at the nodes of Chebyshev, within 3e-9. Below 2^-126 it is 0.
/// With Eigen's exponentials, which mind what no decay is, a row took two to four times as long. Its arrays of integers are as long as
/// those of floats with SSE only, hence the compiler's own vectors.
#if defined(__GNUC__)
template <int Width>
struct RowVectors {
  typedef float Floats __attribute__((vector_size(Width * sizeof(float))));
  typedef std::int32_t Integers __attribute__((vector_size(Width * sizeof(std::int32_t))));
};
/// Of the polynomial for 2^r, the highest power first; the last, of r^0, is 1.
constexpr float power_of_two_terms[] = {1.5461444698569129e-4F, 1.3400428177615838e-3F, 9.6180566785246373e-3F,
                                        5.5503272266703019e-2F, 0.24022650922288757F,   0.69314720670283259F};
#if defined(__AVX512F__)
IMPLICIT_ATTENTION_INTRINSICS_BEGIN
/// 2^t of 16 numbers t, none above 0, by the same polynomial and the processor's own scaling by powers of two.
EIGEN_ALWAYS_INLINE __m512 power_of_two_of_register(__m512 t) {
  const auto all = [](float number) { return _mm512_set1_ps(number); };
  const __m512 to_integer = all(12582912.0F);  // 1.5 2^23
  const __m512 n = _mm512_sub_ps(_mm512_add_ps(t, to_integer), to_integer), r = _mm512_sub_ps(t, n);
  __m512 p = _mm512_fmadd_ps(r, all(power_of_two_terms[0]), all(power_of_two_terms[1]));
  p = _mm512_fmadd_ps(p, r, all(power_of_two_terms[2]));
  p = _mm512_fmadd_ps(p, r, all(power_of_two_terms[3]));
  p = _mm512_fmadd_ps(p, r, all(power_of_two_terms[4]));
  p = _mm512_fmadd_ps(p, r, all(power_of_two_terms[5]));
  p = _mm512_fmadd_ps(p, r, all(1.0F));
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(t, all(-126.0F), _CMP_GE_OQ), p, n);
}
IMPLICIT_ATTENTION_INTRINSICS_END
#endif
template <int Width, class Rates>
EIGEN_ALWAYS_INLINE void add_decays(const Rates& rates, Index offset, const std::vector<std::size_t>& states, const float* weights,
                                    Index count, const float* elapsed, float* sums) {
  using Floats = typename RowVectors<Width>::Floats;
  using Integers = typename RowVectors<Width>::Integers;
  Floats time, sum, rate;
  std::memcpy(&time, elapsed + offset, sizeof time);
  std::memcpy(&sum, sums + offset, sizeof sum);
  const Floats lowest = Floats{} - 127.0F;
  for (Index i = 0; i < count; ++i) {
    std::memcpy(&rate, rates[states[static_cast<std::size_t>(i)]].data() + offset, sizeof rate);
#if defined(__AVX512F__)
    if constexpr (Width == 16) {
      sum += weights[i] * reinterpret_cast<Floats>(power_of_two_of_register(reinterpret_cast<__m512>(rate * time)));
      continue;
    }
#endif
    const Floats product = rate * time, t = product < lowest ? lowest : product;
    const Integers k = __builtin_convertvector(t - 0.5F, Integers);
    const Floats r = t - __builtin_convertvector(k, Floats);
    const Integers bits = (k + 127) << 23;
    Floats scale;
    std::memcpy(&scale, &bits, sizeof scale);
    Floats p = r * power_of_two_terms[0] + power_of_two_terms[1];
    p = p * r + power_of_two_terms[2];
    p = p * r + power_of_two_terms[3];
    p = p * r + power_of_two_terms[4];
    p = p * r + power_of_two_terms[5];
    p = p * r + 1.0F;
    sum += weights[i] * (p * scale);
  }
  std::memcpy(sums + offset, &sum, sizeof sum);
}
#else
template <int Width, class Rates>
void add_decays(const Rates& rates, Index offset, const std::vector<std::size_t>& states, const float* weights, Index count,
                const float* elapsed, float* sums) {
  for (Index i = 0; i < count; ++i)
    for (Index c = offset; c < offset + Width; ++c)
      sums[c] += weights[i] * std::exp2(rates[states[static_cast<std::size_t>(i)]].data()[c] * elapsed[c]);
}
#endif

/// What of a form a row is made of: gate and norm are one array, and the convolution sees all documents.
template <Real Scalar>
struct StateSpaceRow {
  DiagonalRecurrence<Scalar> recurrence;  ///< with rates, queries and keys; updated, then read
  Array<Scalar> gate, activation, skip, input_scale;
  Array<Scalar> convolution;  ///< (channels, width)
  Index row = 0;

  [[nodiscard]] Index width() const { return convolution.empty() ? 1 : convolution.cols(); }
};

/// Row `row` of a form that is a state space's: with rates, queries and keys, and nothing that its walk does not have; else nothing.
template <Real Scalar>
[[nodiscard]] std::optional<StateSpaceRow<Scalar>> state_space_row_of(const UnifiedForm<Scalar>& form, Index row) {
  const DiagonalRecurrence<Scalar>* const diagonal = form.recurrence.diagonal();
  if (diagonal == nullptr) return std::nullopt;
  const DiagonalRecurrence<Scalar>& recurrence = *diagonal;
  if (recurrence.rate.empty() || recurrence.query.empty() || recurrence.key.empty() || recurrence.read_before_update ||
      !form.convolution_starts.empty() || (!form.gate.empty() && !form.normalization.empty()))
    return std::nullopt;
  StateSpaceRow<Scalar> from;
  from.recurrence = recurrence;
  from.gate = form.gate.empty() ? form.normalization : form.gate;
  from.activation = form.activation;
  from.skip = form.skip;
  from.input_scale = form.input_scale;
  from.convolution = form.convolution;
  from.row = row;
  return from;
}

/// The row of up to row_lanes neighbouring channels, from its diagonal back to token 0.
template <Real Scalar>
class StateSpaceTile {
 public:
  using Numbers = Lanes<Scalar, static_cast<int>(row_lanes)>;

  StateSpaceTile(const StateSpaceRow<Scalar>& from, Index channel, Index count)
      : from_(&from),
        channel_(channel),
        count_(count),
        alive_(from.recurrence.state),
        visible_(from.recurrence.first_visible(from.row)),
        order_(static_cast<std::size_t>(from.recurrence.state)),
        rates_(static_cast<std::size_t>(from.recurrence.state)),
        taps_(static_cast<std::size_t>(from.width())),
        ring_(static_cast<std::size_t>(from.width())) {
    constexpr Scalar log2_e = Scalar(1.4426950408889634);
    for (std::size_t n = 0; n < order_.size(); ++n) {
      order_[n] = n;
      rates_[n] = load(from.recurrence.rate, static_cast<Index>(n));
      rates_[n] *= log2_e;
      ordinary_ = ordinary_ && all_lanes(rates_[n], row_lanes,
                                         [](Scalar rate) { return rate <= Scalar(0) && rate >= std::numeric_limits<Scalar>::lowest(); });
    }
    for (std::size_t k = 0; k < taps_.size(); ++k) {
      taps_[k].setZero();
      for (Index c = 0; c < count; ++c)
        taps_[k][c] = from.convolution.empty() ? Scalar(1.0) : from.convolution(channel + c, static_cast<Index>(k));
      ring_[k].setZero();
    }
    elapsed_.setZero();
    gate_.setOnes();
    weights_.setZero(recurrence_states());
    if (!from.gate.empty()) gate_ = load(from.gate, from.row);
  }

  [[nodiscard]] Index channel() const { return channel_; }
  [[nodiscard]] Index count() const { return count_; }

  /// Entries of tokens begin..end-1, the ones before those of the last call, into `entries` (tokens of the piece, row_lanes).
  IMPLICIT_ATTENTION_FLATTEN void walk(Index begin, Index end, Scalar* entries) {
    const DiagonalRecurrence<Scalar>& recurrence = from_->recurrence;
    const Index row = from_->row;
    const bool own_key_scale = recurrence.key_scale.data() != recurrence.step.data();
    const bool ordinary = ordinary_ && ordinary_steps(begin, end);
    for (Index token = end - 1; token >= begin; --token) {
      Numbers sums = Numbers::Zero();
      if (token >= visible_ && alive_ > 0) {
        add_states(row, token, ordinary, sums);
        const Numbers step = load(recurrence.step, token);
        elapsed_ += step;
        if ((row - token) % 16 == 0) leave_out();
        sums *= gate_;
        if (!recurrence.query_scale.empty()) sums *= load(recurrence.query_scale, row);
        if (!recurrence.key_scale.empty()) sums *= own_key_scale ? load(recurrence.key_scale, token) : step;
        if (token == row && !from_->skip.empty()) sums += load(from_->skip, 0) * gate_;
        if (!from_->activation.empty()) sums *= load(from_->activation, token);
      }
      convolve(token, sums, entries + (token - begin) * row_lanes);
    }
  }

 private:
  [[nodiscard]] Index recurrence_states() const { return from_->recurrence.state; }

  [[nodiscard]] EIGEN_ALWAYS_INLINE Numbers load(const Array<Scalar>& array, Index row) const {
    const Scalar* from = array.row(row) + channel_;
    if (count_ == row_lanes) return lanes<static_cast<int>(row_lanes)>(from);
    Numbers to = Numbers::Zero();
    for (Index c = 0; c < count_; ++c) to[c] = from[c];
    return to;
  }

  /// Whether what has elapsed is finite and not negative, and stays so through tokens begin .. end - 1. Asks for these tokens' other
  /// numbers, which lie too far from each other for a processor to foresee.
  [[nodiscard]] EIGEN_ALWAYS_INLINE bool ordinary_steps(Index begin, Index end) const {
    Numbers least = elapsed_, elapsed = elapsed_;
    for (Index token = end - 1; token >= std::max(begin, visible_); --token) {
      for (const Array<Scalar>* const array : {&from_->activation, &from_->input_scale, &from_->recurrence.key_scale})
        if (!array->empty()) prefetch<static_cast<int>(row_lanes)>(array->row(token) + channel_);
      const Numbers step = load(from_->recurrence.step, token);
      least = least.min(step);
      elapsed += step;
    }
    // A NaN among the steps is one in their sum.
    return all_lanes(least, row_lanes, [](Scalar step) { return step >= Scalar(0); }) &&
           all_lanes(elapsed, row_lanes, [](Scalar sum) { return sum <= std::numeric_limits<Scalar>::max(); });
  }

  /// sum_n query[n] key[n] exp(rate[n] elapsed).
  EIGEN_ALWAYS_INLINE void add_states(Index row, Index token, bool ordinary, Numbers& sums) {
    const Scalar *query = from_->recurrence.query.row(row), *key = from_->recurrence.key.row(token);
    for (Index i = 0; i < alive_; ++i) {
      const std::size_t n = order_[static_cast<std::size_t>(i)];
      weights_[i] = query[n] * key[n];
    }
    if (!ordinary) {  // whatever the equation gives
      for (Index i = 0; i < alive_; ++i)
        for (Index c = 0; c < row_lanes; ++c)
          sums[c] += weights_[i] * std::exp2(rates_[order_[static_cast<std::size_t>(i)]][c] * elapsed_[c]);
      return;
    }
    constexpr int width = std::min<int>(register_lanes<Scalar>, static_cast<int>(row_lanes));
    for (Index c = 0; c < row_lanes; c += width)
      add_decays<width>(rates_, c, order_, weights_.data(), alive_, elapsed_.data(), sums.data());
  }

  /// States whose decay is below the smallest normal number in all channels are not seen from here on. A NaN is kept.
  void leave_out() {
    for (Index i = 0; i < alive_;) {
      std::size_t& n = order_[static_cast<std::size_t>(i)];
      if (all_lanes(Numbers(rates_[n] * elapsed_), count_, [](Scalar decay) { return decay < Scalar(-126); }))
        std::swap(n, order_[static_cast<std::size_t>(--alive_)]);
      else
        ++i;
    }
  }

  /// out = sum_d taps[W - 1 - d] entries[token + d], the ring holding the entries of later tokens.
  EIGEN_ALWAYS_INLINE void convolve(Index token, const Numbers& entry, Scalar* out) {
    const std::size_t width = taps_.size();
    Numbers sums = entry;
    if (!from_->convolution.empty()) {
      newest_ = newest_ == 0 ? width - 1 : newest_ - 1;
      ring_[newest_] = entry;
      sums.setZero();
      std::size_t place = newest_;
      for (std::size_t d = 0; d < width; ++d) {
        sums += taps_[width - 1 - d] * ring_[place];
        place = place + 1 == width ? 0 : place + 1;
      }
    }
    if (!from_->input_scale.empty()) sums *= load(from_->input_scale, token);
    lanes<static_cast<int>(row_lanes)>(out) = sums;
  }

  const StateSpaceRow<Scalar>* from_;
  Index channel_, count_, alive_, visible_;
  std::vector<std::size_t> order_;  // the first `alive_` states are still seen
  std::vector<Numbers> rates_;      // times log2(e)
  std::vector<Numbers> taps_, ring_;
  RowVector<Scalar> weights_;  // of the states that are still seen
  std::size_t newest_ = 0;
  Numbers elapsed_, gate_;
  bool ordinary_ = true;  // rates are finite and not positive
};

/// Hands the row to `take(tile, entries, begin, end)`, entries (tokens begin..end-1, row_lanes) of a tile's channels: for every group of
/// channels its last tokens first. `start(group, groups)` makes what a group's `take` is called on, and `finish(begin, end)` is called on
/// it behind all tiles of a piece.
template <Real Scalar, class Start>
void walk_state_space_row(const StateSpaceRow<Scalar>& from, const Executor& executor, const Start& start) {
  const Index channels = from.recurrence.channels, tiles = (channels + row_lanes - 1) / row_lanes;
  detail::run_loop(executor, (tiles + row_group - 1) / row_group, [&](Index group) {
    auto taker = start(group);
    std::vector<StateSpaceTile<Scalar>> own;
    for (Index tile = group * row_group; tile < std::min((group + 1) * row_group, tiles); ++tile)
      own.emplace_back(from, tile * row_lanes, std::min(row_lanes, channels - tile * row_lanes));
    std::vector<Scalar> entries(static_cast<std::size_t>(row_piece * row_lanes));
    for (Index end = from.row + 1, begin; end > 0; end = begin) {
      begin = (end - 1) / row_piece * row_piece;
      for (StateSpaceTile<Scalar>& tile : own) {
        tile.walk(begin, end, entries.data());
        taker.take(tile, entries.data(), begin, end);
      }
      taker.finish(begin, end);
    }
  });
}

/// Writes a row's entries, a channel a row of `out`, (channels, at least row + 1), and zeros behind them.
template <Real Scalar>
void state_space_row(const StateSpaceRow<Scalar>& from, View<Scalar> out, const Executor& executor) {
  struct Writer {
    const StateSpaceRow<Scalar>* from;
    View<Scalar> out;
    void take(const StateSpaceTile<Scalar>& tile, const Scalar* entries, Index begin, Index end) {
      if (tile.count() == row_lanes) {
        transpose<static_cast<int>(row_lanes)>(entries, row_lanes, end - begin,
                                               [&](Index lane) { return &out(tile.channel() + lane, begin); });
      } else {
        for (Index lane = 0; lane < tile.count(); ++lane)
          for (Index token = begin; token < end; ++token) out(tile.channel() + lane, token) = entries[(token - begin) * row_lanes + lane];
      }
      if (end == from->row + 1) out.block(tile.channel(), end, tile.count(), out.cols() - end).setZero();
    }
    void finish(Index, Index) {}
  };
  walk_state_space_row(from, executor, [&](Index) { return Writer{&from, out}; });
}

/// Joins one row's entries, tile after tile: map[j] = join over channels of row_weights A column_weights.
template <Real Scalar, class Reducer>
struct StateSpaceJoiner {
  using Numbers = typename StateSpaceTile<Scalar>::Numbers;

  Reducer join;
  Scalar initial;  // what an empty join gives
  const Array<Scalar>*row_weights, *column_weights;
  Scalar* joined;
  std::vector<Scalar> lanes = std::vector<Scalar>(static_cast<std::size_t>(row_piece * row_lanes), initial);

  void take(const StateSpaceTile<Scalar>& tile, const Scalar* entries, Index begin, Index end) {
    constexpr int width = static_cast<int>(row_lanes);
    Numbers row = Numbers::Ones(), column = Numbers::Ones();
    if (!row_weights->empty())
      for (Index c = 0; c < tile.count(); ++c) row[c] = (*row_weights)(0, tile.channel() + c);
    for (Index token = begin; token < end; ++token) {
      if (!column_weights->empty()) {
        const Scalar* from = column_weights->row(token) + tile.channel();
        if (tile.count() == row_lanes)
          column = implicit_attention::lanes<width>(from);
        else
          for (Index c = 0; c < tile.count(); ++c) column[c] = from[c];
      }
      const Index place = (token - begin) * row_lanes;
      Numbers value = implicit_attention::lanes<width>(entries + place) * row * column;
      for (Index c = tile.count(); c < row_lanes; ++c) value[c] = initial;  // channels that are not there
      implicit_attention::lanes<width>(lanes.data() + place) = join(Numbers(implicit_attention::lanes<width>(lanes.data() + place)), value);
    }
  }
  void finish(Index begin, Index end) {
    for (Index token = begin; token < end; ++token)
      joined[token] =
          Reducer::over(Numbers(implicit_attention::lanes<static_cast<int>(row_lanes)>(lanes.data() + (token - begin) * row_lanes)));
    std::fill(lanes.begin(), lanes.end(), initial);
  }
};

/// One row of a map over tokens, (row + 1), into `out`; means are not divided. Empty weights are ones; row_weights are (1, channels),
/// column_weights (tokens, channels).
template <Real Scalar>
void state_space_reduced_row(const StateSpaceRow<Scalar>& from, ReductionKind kind, const Array<Scalar>& row_weights,
                             const Array<Scalar>& column_weights, Scalar* out, const Executor& executor) {
  const Index count = from.row + 1, groups = (from.recurrence.channels + row_lanes * row_group - 1) / (row_lanes * row_group);
  Matrix<Scalar> partial(groups, count);  // one row a group, joined in order: the same numbers for any number of workers
  with_reducer<Scalar>(kind, [&](const auto& join, Scalar initial) {
    using Reducer = std::decay_t<decltype(join)>;
    walk_state_space_row(from, executor, [&](Index group) {
      return StateSpaceJoiner<Scalar, Reducer>{join, initial, &row_weights, &column_weights, &partial(group, 0)};
    });
    for (Index token = 0; token < count; ++token) {
      out[token] = partial(0, token);
      for (Index group = 1; group < groups; ++group) out[token] = Reducer::combine(out[token], partial(group, token));
    }
  });
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
