// A matrix transposed by vector registers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include <implicit_attention/core/vector_register.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

#if defined(__GNUC__)
/// Transposes `lanes` registers of `lanes` numbers.
template <int Distance, int Lanes, class Scalar>
EIGEN_ALWAYS_INLINE void transpose_registers(typename VectorRegister<Scalar>::type* rows) {
  using Register = typename VectorRegister<Scalar>::type;
  if constexpr (Distance < Lanes) {
    constexpr std::make_integer_sequence<int, Lanes> places{};
    IMPLICIT_ATTENTION_UNROLL
    for (int row = 0; row < Lanes; ++row)
      if ((row & Distance) == 0) {
        const Register first = rows[row], second = rows[row + Distance];
        rows[row] = exchanged<Distance, false>(first, second, places);
        rows[row + Distance] = exchanged<Distance, true>(first, second, places);
      }
    transpose_registers<2 * Distance, Lanes, Scalar>(rows);
  }
}
/// How far ahead of what is copied memory is asked for: more rows are read side by side than a processor follows by itself.
template <class Scalar>
constexpr Index copied_ahead = 256 / static_cast<Index>(sizeof(Scalar));

/// Columns of a factor that is transposed, side by side: to[k * to_step + c] = from[c * step + k] for c < columns and k < inner. Where
/// registers do not divide a side, the last one begins early enough to end with it.
template <Real Scalar>
EIGEN_DONT_INLINE void copy_transposed(const Scalar* from, Index step, Index columns, Index inner, Scalar* to, Index to_step) {
#if IMPLICIT_ATTENTION_SHUFFLES
  using Register = typename VectorRegister<Scalar>::type;
  constexpr int lanes = computed_lanes<Scalar>;
  if (columns >= lanes && inner >= lanes) {
    for (Index done = 0; done < inner; done += lanes)
      for (Index column = 0; column < columns; column += lanes) {
        const Index k = std::min(done, inner - lanes), c = std::min(column, columns - lanes);
        Register rows[static_cast<std::size_t>(lanes)];
        for (int lane = 0; lane < lanes; ++lane) {
          const Scalar* const numbers = from + (c + lane) * step + k;
          __builtin_prefetch(numbers + copied_ahead<Scalar>);
          rows[lane] = *reinterpret_cast<const Register*>(numbers);
        }
        transpose_registers<1, lanes, Scalar>(rows);
        for (int lane = 0; lane < lanes; ++lane) *reinterpret_cast<Register*>(to + (k + lane) * to_step + c) = rows[lane];
      }
    return;
  }
#endif
  for (Index c = 0; c < columns; ++c)
    for (Index k = 0; k < inner; ++k) to[k * to_step + c] = from[c * step + k];
}

#endif

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
