// A tensor's numbers as they are stored, without a copy, so that who uses them can widen a few rows at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <implicit_attention/core/types.hpp>
#include <implicit_attention/core/dtype.hpp>
#include <implicit_attention/core/quantized.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

template <class Scalar>
class Array;  // core/array.hpp

/// A matrix in storage: `rows` by `columns` numbers of one type. Rows stand `row_bytes` apart, or where `row_starts` says; within a row
/// the numbers stand `column_stride` apart (1 for blocks, whose rows are whole blocks). Made by readers that have checked every bound.
struct StoredTensor {
  Dtype dtype = Dtype::F32;
  Index rows = 0, columns = 0;
  const std::byte* data = nullptr;  ///< the first number of row 0; at any alignment
  std::size_t row_bytes = 0;
  Index column_stride = 1;
  std::shared_ptr<const std::byte* const> row_starts;  ///< the first of one a row; null where rows are evenly spaced
  std::shared_ptr<const void> keep_alive;              ///< what the bytes belong to, a mapped file say

  [[nodiscard]] const std::byte* row(Index i) const {
    return row_starts ? row_starts.get()[i] : data + static_cast<std::size_t>(i) * row_bytes;
  }
  /// Whether `widen_row` reads the type.
  [[nodiscard]] bool readable() const { return detail::readable(dtype) || detail::in_blocks(dtype); }
  /// `count` numbers of row `i` from column `first` on: exact, but F64 and integers to float are rounded.
  template <Real Scalar>
  void widen_part(Index i, Index first, Index count, Scalar* to) const {
    if (detail::in_blocks(dtype))
      detail::widen_blocks_part(dtype, row(i), first, count, to);
    else
      detail::widen(dtype, row(i) + static_cast<std::size_t>(first * column_stride) * dtype_bytes(dtype), count, to, column_stride);
  }
  /// All of row `i`.
  template <Real Scalar>
  void widen_row(Index i, Scalar* to) const {
    widen_part(i, 0, columns, to);
  }
  /// Rows `first` to `first + count` into a row-major panel.
  template <Real Scalar>
  void widen_rows(Index first, Index count, Scalar* to, Index to_stride) const {
    if (columns == 0) return;  // however many rows there are
    for (Index i = 0; i < count; ++i) widen_row(first + i, to + i * to_stride);
  }
  /// The same numbers as a view, where they are stored as `Scalar`, aligned, with rows evenly spaced; else an empty array.
  template <Real Scalar>
  [[nodiscard]] Array<Scalar> view() const;
};

namespace detail {

/// The matrix that a shape is read as: all axes but the last merged into rows; one row for a vector, 1 x 1 for a scalar.
template <class = void>
[[nodiscard]] std::pair<Index, Index> rows_and_columns(const std::vector<Index>& shape) {
  Index rows = 1, columns = 1;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) (axis + 1 == shape.size() ? columns : rows) *= shape[axis];
  return {rows, columns};
}

/// Rows of contiguous numbers or blocks, one after the other.
template <class = void>
[[nodiscard]] StoredTensor stored_rows(Dtype dtype, Index rows, Index columns, const std::byte* data,
                                       std::shared_ptr<const void> keep_alive) {
  StoredTensor stored;
  stored.dtype = dtype;
  stored.rows = rows;
  stored.columns = columns;
  stored.data = data;
  stored.row_bytes = static_cast<std::size_t>(columns) / dtype_numbers(dtype) * dtype_bytes(dtype);
  stored.keep_alive = std::move(keep_alive);
  return stored;
}

/// Rows `first` to `first + count`.
template <class = void>
[[nodiscard]] StoredTensor some_rows(StoredTensor stored, Index first, Index count) {
  if (stored.row_starts)
    stored.row_starts = {stored.row_starts, stored.row_starts.get() + first};
  else
    stored.data += static_cast<std::size_t>(first) * stored.row_bytes;
  stored.rows = count;
  return stored;
}

template <class = void>
[[nodiscard]] std::shared_ptr<const std::byte* const> shared_row_starts(std::vector<const std::byte*> starts) {
  const auto owner = std::make_shared<const std::vector<const std::byte*>>(std::move(starts));
  return {owner, owner->data()};
}

/// Row i of the result is row `from(i)`.
template <class From>
[[nodiscard]] StoredTensor picked_rows(const StoredTensor& stored, Index count, From from) {
  std::vector<const std::byte*> starts;
  starts.reserve(static_cast<std::size_t>(count));
  for (Index i = 0; i < count; ++i) starts.push_back(stored.row(from(i)));
  StoredTensor picked = stored;
  picked.rows = count;
  picked.row_starts = shared_row_starts(std::move(starts));
  return picked;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#include <implicit_attention/core/array.hpp>  // where `view` is defined; an array may in turn stand for a stored tensor
