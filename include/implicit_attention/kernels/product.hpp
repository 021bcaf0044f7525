// Products of query and key factors, a tile of the result at a time: every entry of a map that is far from the diagonal.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include <implicit_attention/kernels/lanes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Result rows that are kept in registers together.
constexpr int register_rows = 8;

/// Calls `body(r)` for the rows First .. register_rows - 1, unrolled whatever the optimisation level, so that rows stay in registers.
template <std::size_t First, class Body, std::size_t... r>
EIGEN_ALWAYS_INLINE void each_row(const Body& body, std::index_sequence<r...>) {
  (body(First + r), ...);
}
template <std::size_t First = 0, class Body>
EIGEN_ALWAYS_INLINE void each_row(const Body& body) {
  each_row<First>(body, std::make_index_sequence<register_rows - First>());
}

/// Entries of register_rows rows and of `Columns` neighbouring columns.
template <class Scalar, int Columns>
using Tile = std::array<Lanes<Scalar, Columns>, register_rows>;

/// tile[r] (+)= sum_n queries[n, r] keys[n, columns]: `queries` is (inner, register_rows), `keys` are (inner) rows of register_lanes, both
/// contiguous.
template <bool Add, int Columns, Real Scalar>
EIGEN_ALWAYS_INLINE void multiply(const Scalar* queries, const Scalar* keys, Index inner, Tile<Scalar, Columns>& tile) {
  Index n = 0;
  if constexpr (!Add) {
    const Lanes<Scalar, Columns> key = lanes<Columns>(keys);
    each_row([&](std::size_t r) { tile[r] = queries[r] * key; });
    n = 1;
  }
  for (; n < inner; ++n) {
    const Lanes<Scalar, Columns> key = lanes<Columns>(keys + n * register_lanes<Scalar>);
    const Scalar* query = queries + n * register_rows;
    each_row([&](std::size_t r) { tile[r] += query[r] * key; });
  }
}

/// Calls `body.template operator()<Columns>(column)` for every `Columns` of `columns` (a multiple of register_rows): whole registers where
/// there are that many.
template <Real Scalar, class Body>
EIGEN_ALWAYS_INLINE void each_panel(Index columns, const Body& body) {
  constexpr int width = register_lanes<Scalar>;
  if constexpr (width > register_rows) {
    if (columns < width) return body.template operator()<register_rows>(Index(0));
  }
  for (Index column = 0; column < columns; column += width) body.template operator()<width>(column);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
