// Exponentials of log decays, a vector register at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <implicit_attention/core/lanes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

#if defined(__GNUC__)
/// exp of a register of numbers within 2 units in the last place; what is below twice the smallest normal number is 0, so is the one of
/// minus infinity, and NaN stays. Eigen's also serves denormal results, for twice the time.
EIGEN_ALWAYS_INLINE VectorRegister<float>::type exponential_of_decays(VectorRegister<float>::type given) {
  using Register = VectorRegister<float>::type;
  using Bits = VectorRegister<float>::bits;
#if defined(__AVX512F__)
  if constexpr (computed_lanes<float> == 16) return reinterpret_cast<Register>(exponential_of_register(reinterpret_cast<__m512>(given)));
#endif
  constexpr float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, to_integer = 12582912.0f;  // 1.5 2^23
  constexpr float smallest = -86.643394f, largest = 89.0f;  // log(2^-125); beyond it, infinity
  const Bits large = given > largest, too_small = given < smallest;
  const Register most = Register{} + largest;
  const Register x = reinterpret_cast<Register>((reinterpret_cast<Bits>(given) & ~large) | (reinterpret_cast<Bits>(most) & large));
  Register shifted = x * log2_e + to_integer;
  // Keeps a compiler that may reorder sums from cancelling this addition against the subtraction below.
#if defined(__x86_64__) || defined(__i386__)
  __asm__("" : "+x"(shifted));
#else
  EIGEN_OPTIMIZATION_BARRIER(shifted)
#endif
  const Register n = shifted - to_integer, r = x - n * ln2_high - n * ln2_low;
  Register y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  // The last bits of `shifted` are n; 2^(n-1) is representable even where 2^n overflows.
  // Where the result will be 0 they are arbitrary; they are added as unsigned numbers, whose sum may overflow.
  typedef std::uint32_t Unsigned __attribute__((vector_size(vector_register_bytes), aligned(4), may_alias));
  const Register half = reinterpret_cast<Register>((reinterpret_cast<Unsigned>(shifted) << 23) + (126U << 23));
  y = y * half * 2.0f;
  return reinterpret_cast<Register>(reinterpret_cast<Bits>(y) & ~too_small);
}
inline void exponentiate_register(const float* from, float* to) {
  using Register = VectorRegister<float>::type;
  *reinterpret_cast<Register*>(to) = exponential_of_decays(*reinterpret_cast<const Register*>(from));
}
#endif

/// to = the decays of `count` logarithms, which may be the same numbers. What underflows is 0, as it is for minus infinity, and NaN stays.
template <Real Scalar>
void exponentiate(const Scalar* from, Index count, Scalar* to) {
#if defined(__GNUC__)
  if constexpr (std::is_same_v<Scalar, float>) {
    constexpr Index lane = vector_register_bytes / static_cast<int>(sizeof(float));
    Index i = 0;
    for (; i + lane <= count; i += lane) exponentiate_register(from + i, to + i);
    if (i == count) return;
    float rest[static_cast<std::size_t>(lane)] = {};
    std::copy(from + i, from + count, rest);
    exponentiate_register(rest, rest);
    std::copy_n(rest, count - i, to + i);
    return;
  }
#endif
  constexpr Scalar smallest = 2 * std::numeric_limits<Scalar>::min();
  Numbers<Scalar>(to, count) = ConstNumbers<Scalar>(from, count).exp();  // Eigen's, from the first number on, whatever its address
  for (Index i = 0; i < count; ++i) to[i] = to[i] < smallest ? Scalar(0) : to[i];
}
template <Real Scalar>
void exponentiate(Scalar* numbers, Index count) {
  exponentiate<Scalar>(numbers, count, numbers);
}

/// The same of numbers in a register.
template <Real Scalar, int Count>
EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> exponentials(const LaneNumbers<Scalar, Count>& logs) {
#if defined(__GNUC__)
  if constexpr (std::is_same_v<Scalar, float> && Count == computed_lanes<float>) return exponential_of_decays(logs);
#endif
  Scalar numbers[static_cast<std::size_t>(Count)];
  LaneRegister<Scalar, Count>::store(numbers, logs);
  exponentiate(numbers, Index(Count));
  return LaneRegister<Scalar, Count>::load(numbers);
}

/// The same into other memory than `from`, in less than half of the operations where all are between -log 2 and 0, decays above one half.
/// exp(0) is exactly 1.
template <Real Scalar>
void exponentiate_together(const Scalar* from, Index count, Scalar* to) {
#if defined(__GNUC__)
  if constexpr (std::is_same_v<Scalar, float>) {
    using Register = VectorRegister<float>::type;
    using Bits = VectorRegister<float>::bits;
    constexpr Index lane = vector_register_bytes / static_cast<int>(sizeof(float));
    Bits beyond = {};  // signs of numbers that are negative where a logarithm is too small or above 0
    Index i = 0;
    for (; i + lane <= count; i += lane) {
      const Register x = *reinterpret_cast<const Register*>(from + i);
      beyond |= reinterpret_cast<Bits>(x + 0.6931f) | reinterpret_cast<Bits>(0.0f - x);
      Register y = x * 1.0362181667e-3f + 8.0726262367e-3f;  // for (exp(x) - 1) / x, within 2e-8 of exp(x)
      y = y * x + 4.1575302992e-2f;
      y = y * x + 1.6665201962e-1f;
      y = y * x + 4.9999913538e-1f;
      y = y * x + 1.0f;
      *reinterpret_cast<Register*>(to + i) = y * x + 1.0f;
    }
    std::int32_t any = 0;
    for (Index k = 0; k < lane; ++k) any |= beyond[k];
    if (any < 0) i = 0;
    if (i == count) return;
    from += i;
    to += i;
    count -= i;
  }
#endif
  exponentiate(from, count, to);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
