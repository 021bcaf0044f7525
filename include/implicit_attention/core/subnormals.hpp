// Arithmetic that takes numbers too small to be normal as zeros: below 1.2e-38 in float, 2.2e-308 in double.
//
// Factors of a map are products of decays and fade below the smallest normal number, where some processors take a hundred times as long for
// a product. Such a factor is 0, and with it what it is multiplied with; exponentials of log decays (kernels/exponentials.hpp) end there anyway.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

#include <implicit_attention/config.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

#if defined(__x86_64__) || defined(_M_X64)
/// This thread's arithmetic before the outermost SubnormalsAsZero.
struct ArithmeticBefore {
  bool changed = false;  ///< whether there is one
  unsigned mxcsr = 0;
};
inline thread_local ArithmeticBefore arithmetic_before;

/// Subnormal numbers are zeros on this thread while it lives; then the host's arithmetic is as it was, with the exceptions that were raised.
/// On x86-64; elsewhere nothing happens.
class SubnormalsAsZero {
 public:
  SubnormalsAsZero() noexcept : before_(_mm_getcsr()), outermost_(!arithmetic_before.changed) {
    if (outermost_) arithmetic_before = {true, before_};
    _mm_setcsr(before_ | results_as_zero | operands_as_zero);
  }
  SubnormalsAsZero(const SubnormalsAsZero&) = delete;
  SubnormalsAsZero& operator=(const SubnormalsAsZero&) = delete;
  ~SubnormalsAsZero() {
    restore(before_);
    if (outermost_) arithmetic_before.changed = false;
  }
  /// For an error handler of the host's, which may leave by longjmp: its arithmetic, whatever is being computed.
  static void end_all() noexcept {
    if (arithmetic_before.changed) restore(arithmetic_before.mxcsr);
    arithmetic_before.changed = false;
  }

 private:
  static constexpr unsigned results_as_zero = 0x8000, operands_as_zero = 0x0040, raised_exceptions = 0x003F;  // bits of MXCSR
  static void restore(unsigned before) noexcept { _mm_setcsr((before & ~raised_exceptions) | (_mm_getcsr() & raised_exceptions)); }

  unsigned before_;
  bool outermost_;
};
#else
class SubnormalsAsZero {
 public:
  SubnormalsAsZero() noexcept {}  // NOLINT(modernize-use-equals-default): a variable of it counts as used
  static void end_all() noexcept {}
};
#endif

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
