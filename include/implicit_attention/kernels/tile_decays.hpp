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

  /// The decays (states, Width) of a token's steps (Width).
  IMPLICIT_ATTENTION_FLATTEN void set(const Scalar* step, Scalar* to) const {
    const Scalar* const rate = rate_.data();
    const Index count = rate_.rows() * registers;
    for (Index row = 0; row < count; row += registers)
      for (int r = 0; r < registers; ++r)
        Register::store(to + (row + r) * lane, Register::load(rate + (row + r) * lane) * Register::load(step + r * lane));
    exponentiate(to, count * lane);
  }

 private:
  LaneRows<Scalar, Width> rate_;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
