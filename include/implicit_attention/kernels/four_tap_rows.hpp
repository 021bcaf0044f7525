// Rows of a channel's matrix where the convolution has four taps, in registers: products of a head's row with activations, shuffled.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <type_traits>

#include <implicit_attention/core/lane_register.hpp>
#include <implicit_attention/kernels/head_columns.hpp>
#include <implicit_attention/kernels/row_writer.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// One channel's rows for four taps, nearly all models' convolution. HeadColumns makes no factors for them (by_taps).
template <Real Scalar>
class FourTapRows {
 public:
  static constexpr int lane = register_lanes<Scalar>;

  /// Whether Lanes are one register of the machine: not doubles on machines of 16 bytes.
  static constexpr bool available = lane == computed_lanes<Scalar>;

  FourTapRows() {
    skip_.fill(-Scalar(0));  // changes no number, not even a zero's sign
  }

  /// Chooses a channel of the columns.
  void choose(const HeadColumns<Scalar>& columns, Index channel) {
    columns_ = &columns;
    channel_ = channel;
    if (columns.skips()) skip_[lane] = columns.skip(channel);
    least_tap_ = std::numeric_limits<Scalar>::infinity();
    largest_tap_ = 0;
    for (Index d = 0; d < columns.width(); ++d) {
      const Scalar tap = std::abs(columns.tap(channel, d));
      if (tap != Scalar(0)) least_tap_ = std::min(least_tap_, tap);
      largest_tap_ = std::max(largest_tap_, tap);
    }
  }

  /// Whether a row's scale may be multiplied into the channel's taps: not where that would lose digits, or make infinite taps of opposite
  /// signs, whose sum is no number.
  [[nodiscard]] bool takes(Scalar scale) const {
    return scale == Scalar(0) || largest_tap_ == Scalar(0) || (std::isnormal(least_tap_ * scale) && std::isnormal(largest_tap_ * scale));
  }

  /// Entries 0 .. count - 1 of a head's row, scaled, and zeros from `count` to `made`: into `numbers`, or, from `from` to `stop`, which are
  /// whole lines of the result, straight to `to`. Entry `diagonal` has the channel's skip.
  void write(const Scalar* row, Scalar scale, Index diagonal, Index count, Index from, Index stop, Index made, Scalar* numbers,
             Scalar* to) const {
    const Scalar *const activation = columns_->activation(channel_), *const skip = skip_.data();
    const Scalar tap0 = columns_->tap(channel_, 0) * scale, tap1 = columns_->tap(channel_, 1) * scale,
                 tap2 = columns_->tap(channel_, 2) * scale, tap3 = columns_->tap(channel_, 3) * scale;
    const auto part = [&](auto straight, Index begin, Index end, Scalar* out) {
      if (begin < end) four_taps<straight()>(row, activation, skip, begin, end, out, tap0, tap1, tap2, tap3, diagonal, count);
    };
    part(std::false_type(), 0, from, numbers);
    part(std::true_type(), from, stop, to);
    part(std::false_type(), stop, made, numbers);
  }

 private:
  /// sum_d taps[d] (row[j + d] + [j + d = diagonal] skip) activation[j + d]: every product is computed once and shuffled to its four
  /// places. Writing several rows at the same time would share reads of the factors, but is slower: memory is then written at a lower rate.
  /// `Straight`: past the caches. The skip and the zeros after the row's entries are added in registers: a read of memory that has just
  /// been written in part would wait for the write.
  template <bool Straight>
  EIGEN_DONT_INLINE IMPLICIT_ATTENTION_FLATTEN static void four_taps(const Scalar* row, const Scalar* activation, const Scalar* skip,
                                                                     Index begin, Index end, Scalar* to, Scalar tap0, Scalar tap1,
                                                                     Scalar tap2, Scalar tap3, Index diagonal, Index count) {
    using Register = LaneRegister<Scalar, lane>;
    using Numbers = typename Register::type;
    const auto load = [](const Scalar* from) -> Numbers { return Register::load(from); };
    const auto product = [=](Index j) -> Numbers { return load(row + j) * load(activation + j); };
    const auto product_with_skip = [=](Index j) -> Numbers {
      const Index place = std::clamp<Index>(lane + j - diagonal, 0, Index(2) * lane);
      return (load(row + j) + load(skip + place)) * load(activation + j);
    };
    const auto sum_of = [=](const Numbers& numbers, const Numbers& next) -> Numbers {
      Numbers sum = tap0 * numbers;
      sum = sum + tap1 * shifted<1, Scalar, lane>(numbers, next);
      sum = sum + tap2 * shifted<2, Scalar, lane>(numbers, next);
      return sum + tap3 * shifted<3, Scalar, lane>(numbers, next);
    };
    const auto write = [=](Index j, const Numbers& sum) {
      if constexpr (Straight) {
        Lanes<Scalar, lane> entries;
        Register::store(entries.data(), sum);
        RowWriter<Scalar>::stream(to + j, entries);
      } else {
        Register::store(to + j, sum);
      }
    };
    // Registers that contain neither the skip nor the row's end.
    const Index plain = diagonal < begin ? count - lane + 1 : std::min(diagonal - Index(2) * lane, count - lane) + 1;
    Numbers numbers = product_with_skip(begin);
    Index j = begin;
    for (const Index last = std::min(end, plain); j < last; j += lane) {
      const Numbers next = product(j + lane);
      write(j, sum_of(numbers, next));
      numbers = next;
    }
    for (; j < end; j += lane) {
      const Numbers next = product_with_skip(j + lane);
      write(j, sum_of(numbers, next) + load(row_end.data() + std::clamp<Index>(j + lane - count, 0, lane)));
      numbers = next;
    }
  }
  /// Added to a row's numbers it changes none of them, not even a zero's sign (-0); added to the 0 or -0 after the row it gives 0.
  alignas(line_bytes) static constexpr std::array<Scalar, static_cast<std::size_t>(2 * lane)> row_end = [] {
    std::array<Scalar, static_cast<std::size_t>(2 * lane)> numbers{};
    std::fill_n(numbers.begin(), lane, -Scalar(0));
    return numbers;
  }();

  const HeadColumns<Scalar>* columns_ = nullptr;
  Index channel_ = 0;
  Scalar least_tap_ = 0, largest_tap_ = 0;  ///< of the channel's taps, without signs; the least one that is not 0
  alignas(line_bytes) std::array<Scalar, static_cast<std::size_t>(3 * lane)> skip_;  ///< the channel's skip, alone in the middle
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
