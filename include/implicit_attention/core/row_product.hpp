// Products of a row of numbers with a matrix, each compiled once a scalar.
#pragma once

#include <algorithm>
#include <cstddef>

#include <implicit_attention/core/lane_register.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

#if defined(__GNUC__)
/// out += sign numbers b for a row of numbers side by side, by Eigen's product of a matrix in memory with a vector. One instantiation per
/// scalar: Eigen's is compiled anew for every kind of factor and sign.
template <Real Scalar>
EIGEN_DONT_INLINE void add_row_product(Scalar* out, Index columns, Scalar sign, const Scalar* numbers, Index inner, const Scalar* b,
                                       Index stride) {
  using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;
  Eigen::Map<Vector>(out, columns).noalias() +=
      sign * (Eigen::Map<const Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>, 0, Eigen::OuterStride<>>(
                  b, columns, inner, Eigen::OuterStride<>(stride)) *
              Eigen::Map<const Vector>(numbers, inner));
}

/// Products of a row of numbers with `Rows` neighbouring rows of b, each added up in the same order, whatever `Rows` is. Of long rows some lines
/// ahead are asked for meanwhile: a processor that reads on by itself stops at the end of a page, and each of these is in another one.
template <int Rows, Real Scalar>
EIGEN_ALWAYS_INLINE void row_products(Scalar* products, const Scalar* numbers, Index inner, const Scalar* b, Index stride) {
  constexpr int lanes = computed_lanes<Scalar>;
  constexpr Index line = 64 / static_cast<Index>(sizeof(Scalar));
  const bool long_rows = Rows * stride > 256 * line;
  using Register = LaneRegister<Scalar, lanes>;
  typename Register::type sums[static_cast<std::size_t>(Rows)] = {};
  Index done = 0;
  for (; done + lanes <= inner; done += lanes) {
    const typename Register::type left = Register::load(numbers + done);
    if (long_rows && done % line == 0) IMPLICIT_ATTENTION_UNROLL
    for (int row = 0; row < Rows; ++row) __builtin_prefetch(b + row * stride + done + 4 * line);
    IMPLICIT_ATTENTION_UNROLL
    for (int row = 0; row < Rows; ++row) sums[row] += left * Register::load(b + row * stride + done);
  }
#if IMPLICIT_ATTENTION_SHUFFLES
  add_up_rows<Rows, 1, Scalar, lanes>(sums);
  for (int row = 0; row < Rows; ++row) products[row] = sums[0][row];
#else
  for (int row = 0; row < Rows; ++row) products[row] = sum_of<Scalar, lanes>(sums[row]);
#endif
  for (; done < inner; ++done)
    for (int row = 0; row < Rows; ++row) products[row] += numbers[done] * b[row * stride + done];
}

/// out (+)= sign numbers b^T for a row of numbers side by side.
template <Real Scalar>
EIGEN_DONT_INLINE void multiply_row_transposed(Scalar* out, Index columns, const Scalar* numbers, Index inner, const Scalar* b,
                                               Index stride, Scalar sign, bool add) {
  constexpr Index together = std::min(8, computed_lanes<Scalar>);
  Scalar products[static_cast<std::size_t>(together)];
  Index column = 0;
  for (; column + together <= columns; column += together) {
    row_products<together>(products, numbers, inner, b + column * stride, stride);
    for (Index c = 0; c < together; ++c) out[column + c] = (add ? out[column + c] : Scalar(0)) + sign * products[c];
  }
  for (; column < columns; ++column) {
    row_products<1>(products, numbers, inner, b + column * stride, stride);
    out[column] = (add ? out[column] : Scalar(0)) + sign * products[0];
  }
}

#endif

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
