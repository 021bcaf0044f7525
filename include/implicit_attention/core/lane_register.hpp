// Up to a vector register of neighbouring numbers, and the functions of them that Eigen has.
#pragma once

#include <cstddef>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#include <implicit_attention/core/vector_register.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// `Count` neighbouring numbers that are computed together, at most a vector register of them: the compiler's own type where it has one, so
/// that sums stay in registers. Reads and writes at any address.
#if defined(__GNUC__)
template <class Scalar, int Count>
struct LaneRegister {
  typedef Scalar type __attribute__((vector_size(Count * sizeof(Scalar)), aligned(alignof(Scalar)), may_alias));
  static type zero() { return type{}; }
  static type load(const Scalar* from) { return *reinterpret_cast<const type*>(from); }
  static void store(Scalar* to, type numbers) { *reinterpret_cast<type*>(to) = numbers; }
};
#else
template <class Scalar, int Count>
struct LaneRegister {
  using type = Eigen::Array<Scalar, 1, Count, Eigen::RowMajor>;
  static type zero() { return type::Zero(); }
  static type load(const Scalar* from) { return Eigen::Map<const type>(from); }
  static void store(Scalar* to, const type& numbers) {
    Eigen::Map<type> target(to);
    target = numbers;
  }
};
#endif
template <class Scalar>
struct LaneRegister<Scalar, 1> {
  using type = Scalar;
  static type zero() { return 0; }
  static type load(const Scalar* from) { return *from; }
  static void store(Scalar* to, type number) { *to = number; }
};
template <class Scalar, int Count>
using LaneNumbers = typename LaneRegister<Scalar, Count>::type;

/// Numbers that a register has where `Width` of them, or (Eigen::Dynamic) any number, are computed register by register.
template <class Scalar, int Width>
constexpr int register_numbers_of = Width == Eigen::Dynamic ? computed_lanes<Scalar> : std::gcd(Width, computed_lanes<Scalar>);

/// In each lane `a` where `mask` holds, else `b`. (The registers' type is named, not deduced: deduced, it would promise an alignment that
/// memory need not have.)
template <class Scalar, int Count, class Mask>
EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> choose(const Mask& mask, const LaneNumbers<Scalar, Count>& a,
                                                      const LaneNumbers<Scalar, Count>& b) {
#if defined(__GNUC__)
  return mask ? a : b;
#else
  if constexpr (Count == 1)
    return mask ? a : b;
  else
    return mask.select(a, b);
#endif
}
/// The larger of two numbers in each lane; of a NaN and a number, what is in `a`.
template <class Scalar, int Count>
EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> larger(const LaneNumbers<Scalar, Count>& a, const LaneNumbers<Scalar, Count>& b) {
#if defined(__AVX512F__) && defined(__GNUC__)
  // For registers of 64 bytes g++ emits a comparison, which only one of the ports takes, and a choice.
  if constexpr (std::is_same_v<Scalar, float> && Count == 16)
    return reinterpret_cast<LaneNumbers<Scalar, Count>>(_mm512_max_ps(reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(a)));
#endif
  return choose<Scalar, Count>(b > a, b, a);
}
/// Likewise the smaller.
template <class Scalar, int Count>
EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> smaller(const LaneNumbers<Scalar, Count>& a, const LaneNumbers<Scalar, Count>& b) {
  return choose<Scalar, Count>(b < a, b, a);
}
/// A NaN where either number is one, else the larger.
template <class Scalar, int Count>
EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> larger_or_nan(const LaneNumbers<Scalar, Count>& a, const LaneNumbers<Scalar, Count>& b) {
  return choose<Scalar, Count>(a != a, a, choose<Scalar, Count>(a > b, a, b));
}

/// Eigen's functors. It has no public name for them, nor for what they make of one register: this header alone takes them from inside it.
namespace eigen_functions = Eigen::internal;

/// Whether Eigen vectorises a function, by its functor.
template <class Function>
constexpr bool vectorised = bool(Eigen::internal::functor_traits<Function>::PacketAccess);

#if defined(__AVX512F__) && defined(__GNUC__)
IMPLICIT_ATTENTION_INTRINSICS_BEGIN
/// exp of 16 numbers within 2 units in the last place, in two thirds of the operations that Eigen's takes; what is below twice the smallest
/// normal number is 0, and NaN stays.
EIGEN_ALWAYS_INLINE __m512 exponential_of_register(__m512 given) {
  const auto all = [](float number) { return _mm512_set1_ps(number); };
  const __m512 x = _mm512_min_ps(all(89.0f), given), to_integer = all(12582912.0f);  // 1.5 2^23
  const __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, all(1.44269504f), to_integer), to_integer);
  const __m512 r = _mm512_fnmadd_ps(n, all(-2.12194440e-4f), _mm512_fnmadd_ps(n, all(0.693359375f), x));  // x - n log(2)
  __m512 y = _mm512_fmadd_ps(r, all(1.3926468e-3f), all(8.3634071e-3f));  // for (exp(r) - 1 - r) / r^2, within 1e-8 of exp(r)
  y = _mm512_fmadd_ps(y, r, all(4.1666552e-2f));
  y = _mm512_fmadd_ps(y, r, all(0.16666576f));
  y = _mm512_fmadd_ps(y, r, all(0.5f));
  y = _mm512_fmadd_ps(y, r, all(1.0f));
  y = _mm512_fmadd_ps(y, r, all(1.0f));
  const __mmask16 normal = _mm512_cmp_ps_mask(given, all(-86.643394f), _CMP_NLT_UQ);  // log(2^-125)
  return _mm512_maskz_scalef_ps(normal, y, n);
}
IMPLICIT_ATTENTION_INTRINSICS_END
#endif

/// A function that Eigen has of a register: vectorised where Eigen's is.
template <class Function, class Scalar, int Count>
EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> function_of(const LaneNumbers<Scalar, Count>& x) {
  using Register = LaneRegister<Scalar, Count>;
  if constexpr (Count == 1) {
    return Function()(x);
  } else {
#if defined(__AVX512F__) && defined(__GNUC__)
    if constexpr (std::is_same_v<Function, eigen_functions::scalar_exp_op<float>> && Count == 16)
      return reinterpret_cast<LaneNumbers<Scalar, Count>>(exponential_of_register(reinterpret_cast<__m512>(x)));
#endif
#if defined(__GNUC__)
    using Packet = typename Eigen::internal::find_best_packet<Scalar, Count>::type;
    if constexpr (Eigen::internal::unpacket_traits<Packet>::size == Count && vectorised<Function>) {
      Packet numbers;
      std::memcpy(&numbers, &x, sizeof(x));
      numbers = Function().packetOp(numbers);
      typename Register::type result;
      std::memcpy(&result, &numbers, sizeof(result));
      return result;
    }
#endif
    Scalar numbers[static_cast<std::size_t>(Count)];
    Register::store(numbers, x);
    for (Scalar& number : numbers) number = Function()(number);
    return Register::load(numbers);
  }
}

/// The sum of a register's numbers, in Eigen's order where it has one: pairs of sums, not one number after the other.
template <class Scalar, int Count>
EIGEN_ALWAYS_INLINE Scalar sum_of(const LaneNumbers<Scalar, Count>& x) {
  if constexpr (Count == 1) {
    return x;
  } else {
#if defined(__GNUC__)
    using Packet = typename Eigen::internal::find_best_packet<Scalar, Count>::type;
    if constexpr (Eigen::internal::unpacket_traits<Packet>::size == Count) {  // g++ makes scalars of a loop over halves
      Packet numbers;
      std::memcpy(&numbers, &x, sizeof(x));
      return Eigen::internal::predux(numbers);
    }
#endif
    Scalar numbers[static_cast<std::size_t>(Count)];
    LaneRegister<Scalar, Count>::store(numbers, x);
    IMPLICIT_ATTENTION_UNROLL  // of both loops: numbers that are read as they were written wait for memory
        for (int half = Count / 2; half > 0; half /= 2) {
      IMPLICIT_ATTENTION_UNROLL
      for (int k = 0; k < half; ++k) numbers[k] += numbers[k + half];
    }
    return numbers[0];
  }
}

#if IMPLICIT_ATTENTION_SHUFFLES
/// Adds up the numbers of each of `Rows` registers: rows[0] then has the sum of register k in place k. Neighbours first, then sums of
/// neighbours, so that no sum depends on how many registers there are.
template <int Rows, int Distance, class Scalar, int Count>
EIGEN_ALWAYS_INLINE void add_up_rows(LaneNumbers<Scalar, Count>* rows) {
  if constexpr (Distance < Count) {
    constexpr std::make_integer_sequence<int, Count> places{};
    IMPLICIT_ATTENTION_UNROLL
    for (int row = 0; row < Rows; row += 2 * Distance) {
      const LaneNumbers<Scalar, Count> first = rows[row], second = rows[Distance < Rows ? row + Distance : row];
      rows[row] = exchanged<Distance, false>(first, second, places) + exchanged<Distance, true>(first, second, places);
    }
    add_up_rows<Rows, 2 * Distance, Scalar, Count>(rows);
  }
}
#endif
/// The sums of `Count` rows of `Count` numbers that stand one behind the other: that of row k in place k.
template <class Scalar, int Count>
EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> sums_of_rows(const Scalar* rows) {
  using Register = LaneRegister<Scalar, Count>;
#if IMPLICIT_ATTENTION_SHUFFLES
  typename Register::type numbers[static_cast<std::size_t>(Count)];
  IMPLICIT_ATTENTION_UNROLL
  for (int row = 0; row < Count; ++row) numbers[row] = Register::load(rows + row * Count);
  add_up_rows<Count, 1, Scalar, Count>(numbers);
  return numbers[0];
#else
  Scalar sums[static_cast<std::size_t>(Count)];
  for (int row = 0; row < Count; ++row) sums[row] = sum_of<Scalar, Count>(Register::load(rows + row * Count));
  return Register::load(sums);
#endif
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
