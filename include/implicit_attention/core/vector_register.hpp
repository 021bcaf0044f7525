// A vector register of the target machine as the compiler's own type: arithmetic that stays in registers whatever the optimisation level.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include <implicit_attention/core/types.hpp>

/// Whether the compiler shuffles the numbers of two registers into one. Registers are its own type under __GNUC__ alone (not in clang-cl).
#if defined(__has_builtin) && defined(__GNUC__)
#if __has_builtin(__builtin_shufflevector)
#define IMPLICIT_ATTENTION_SHUFFLES 1
#endif
#endif
#if !defined(IMPLICIT_ATTENTION_SHUFFLES)
#define IMPLICIT_ATTENTION_SHUFFLES 0
#endif

/// Before a loop of few steps, known at compile time: all of them in a row, so that what they count stays in registers.
#if defined(__GNUC__)
#define IMPLICIT_ATTENTION_UNROLL _Pragma("GCC unroll 16")
#else
#define IMPLICIT_ATTENTION_UNROLL
#endif

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

constexpr int vector_register_bytes = std::max<int>(EIGEN_MAX_STATIC_ALIGN_BYTES, 16);
/// Numbers that fill a vector register of the target machine.
template <class Scalar>
constexpr int computed_lanes = vector_register_bytes / static_cast<int>(sizeof(Scalar));

#if defined(__GNUC__)
/// `type` may stand at any address that suits its numbers; `bits` are integers of their size.
template <class Scalar>
struct VectorRegister;
template <>
struct VectorRegister<float> {
  typedef float type __attribute__((vector_size(vector_register_bytes), aligned(4), may_alias));
  typedef std::int32_t bits __attribute__((vector_size(vector_register_bytes), aligned(4), may_alias));
};
template <>
struct VectorRegister<double> {
  typedef double type __attribute__((vector_size(vector_register_bytes), aligned(8), may_alias));
  typedef std::int64_t bits __attribute__((vector_size(vector_register_bytes), aligned(8), may_alias));
};

/// Register `row` of two that lie `Distance` rows apart, after one step of a transposition: every other run of `Distance` numbers of each.
template <int Distance, bool Second, class Register, int... Place>
[[nodiscard]] EIGEN_ALWAYS_INLINE Register exchanged([[maybe_unused]] Register first, [[maybe_unused]] Register second,
                                                     std::integer_sequence<int, Place...>) {
#if IMPLICIT_ATTENTION_SHUFFLES
  constexpr int lanes = sizeof...(Place);
  return __builtin_shufflevector(first, second,
                                 ((Place & Distance) == 0 ? Place + (Second ? Distance : 0) : lanes + Place - (Second ? 0 : Distance))...);
#else
  return first;
#endif
}
#endif

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
