// The decays of a tile of channels at one token: exponentials of rate times step, one for each state and channel.
#pragma once

#include <implicit_attention/kernels/exponentials.hpp>
#include <implicit_attention/kernels/lanes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Decays exp(rate[n] step) of `Width` channels.
template <int Width, Real Scalar>
class TileDecays {
 public:
  static constexpr int lane = register_numbers_of<Scalar, Width>, registers = Width / lane;
  using Register = LaneRegister<Scalar, lane>;

  /// `rate` (states, channels), or empty: ones, one state.
  TileDecays(const Array<Scalar>& rate, Index channel) : rate_(rate_rows<Width>(rate, channel)) {}

  /// (states, Width)
  [[nodiscard]] const Scalar* rate() const { return rate_.data(); }

  /// The decays of state `n` in register `r` of the tile, by the channels' steps there.
  [[nodiscard]] EIGEN_ALWAYS_INLINE typename Register::type at(Index n, int r, const typename Register::type& step) const {
    return exponentials<Scalar, lane>(Register::load(rate_.data() + n * Width + r * lane) * step);
  }

 private:
  LaneRows<Scalar, Width> rate_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
