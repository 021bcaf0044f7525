// Turning blocks of tokens by channels into channels by tokens, a register at a time.
#pragma once

#include <implicit_attention/kernels/lanes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Writes the columns of a block of whole registers, one after the other: column c to to(c).
template <Real Scalar, int Width, class Target>
EIGEN_ALWAYS_INLINE void store_transposed(Eigen::Matrix<Scalar, Width, Width, Eigen::RowMajor>& block, const Target& to) {
  if constexpr (Width > 1) block.transposeInPlace();  // in registers, where a row fills one
  for (int c = 0; c < Width; ++c) lanes<Width>(to(c)) = lanes<Width>(block.data() + c * Width);
}

/// to(c)[k] = from[k * stride + c] for k < rows and c < Columns.
template <int Columns, Real Scalar, class Target>
EIGEN_ALWAYS_INLINE void transpose(const Scalar* from, Index stride, Index rows, const Target& to) {
  constexpr int width = register_lanes<Scalar>;
  const Index whole = Columns % width == 0 ? rows / width * width : Index(0);
  if constexpr (Columns % width == 0)
    for (Index k = 0; k < whole; k += width)
      for (int c = 0; c < Columns; c += width) {
        Eigen::Matrix<Scalar, width, width, Eigen::RowMajor> block;
        for (int i = 0; i < width; ++i) lanes<width>(block.data() + i * width) = lanes<width>(from + (k + i) * stride + c);
        store_transposed(block, [&](int i) { return to(c + i) + k; });
      }
  for (Index k = whole; k < rows; ++k)
    for (int c = 0; c < Columns; ++c) to(c)[k] = from[k * stride + c];
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
