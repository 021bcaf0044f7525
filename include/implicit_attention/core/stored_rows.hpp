// Rows of a weight where they are used: as they lie in memory, or widened out of storage, a panel at a time.
#pragma once

#include <algorithm>
#include <cmath>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/matrix_product.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Rows of a weight that a product takes at a time. The same whether they are widened or not: results do not depend on how a file stores
/// its numbers.
inline constexpr Index stored_panel_rows = 512;

/// Part of a weight as numbers; `panel` is the memory for what has to be widened.
template <Real Scalar>
[[nodiscard]] ConstView<Scalar> numbers_of(const Array<Scalar>& weight, Index first_row, Index rows, Index first_column, Index columns,
                                           Matrix<Scalar>& panel) {
  const StoredTensor* const stored = weight.storage();
  if (stored == nullptr) return {weight.data() + first_row * weight.row_stride() + first_column, rows, columns, weight.row_stride()};
  panel.resize(rows, columns);
  for (Index row = 0; row < rows; ++row) stored->widen_part(first_row + row, first_column, columns, panel.row(row).data());
  return {panel.data(), rows, columns, columns};
}

/// Whether two weights have the same numbers, stored as they may be: 0 is -0, and a NaN is a NaN.
template <Real Scalar>
[[nodiscard]] bool same_numbers(const Array<Scalar>& a, const Array<Scalar>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  Matrix<Scalar> of_a, of_b;
  for (Index row = 0; row < a.rows(); ++row) {
    const ConstView<Scalar> left = numbers_of(a, row, 1, 0, a.cols(), of_a), right = numbers_of(b, row, 1, 0, b.cols(), of_b);
    for (Index column = 0; column < a.cols(); ++column)
      if (left(0, column) != right(0, column) && !(std::isnan(left(0, column)) && std::isnan(right(0, column)))) return false;
  }
  return true;
}

/// One row of a weight, such as a token's embedding, copied to `row`. Nothing else of it is read.
template <Real Scalar>
void copy_row(const Array<Scalar>& weight, Index index, Scalar* row) {
  if (const StoredTensor* const stored = weight.storage())
    stored->widen_part(index, 0, weight.cols(), row);
  else
    std::copy_n(weight.row(index), weight.cols(), row);
}
/// The same as a row of its own.
template <Real Scalar>
[[nodiscard]] RowVector<Scalar> row_of(const Array<Scalar>& weight, Index index) {
  RowVector<Scalar> row(weight.cols());
  copy_row(weight, index, row.data());
  return row;
}

/// out = u weight^T for rows `first` to `first + count` of the weight; `out` (tokens, count).
template <Real Scalar>
void set_product_of_rows(View<Scalar> out, ConstView<Scalar> u, const Array<Scalar>& weight, Index first, Index count) {
  Matrix<Scalar> panel;
  for (Index done = 0; done < count; done += stored_panel_rows) {
    const Index rows = std::min(stored_panel_rows, count - done);
    set_product(out.middleCols(done, rows), u, numbers_of(weight, first + done, rows, 0, weight.cols(), panel), Transposed::right);
  }
}

/// out (+)= grad weight for columns `first` to `first + count` of the weight, which has at least one row; `out` (tokens, count).
template <Real Scalar>
void product_of_columns(View<Scalar> out, ConstView<Scalar> grad, const Array<Scalar>& weight, Index first, Index count, bool add) {
  Matrix<Scalar> panel;
  // A weight that lies in memory is one panel: its sums are added up in the same order, and what is multiplied next is asked for throughout.
  const Index high = weight.storage() == nullptr ? weight.rows() : stored_panel_rows;
  for (Index done = 0; done < weight.rows(); done += high) {
    const Index rows = std::min(high, weight.rows() - done);
    signed_product<Scalar>(out, grad.middleCols(done, rows), numbers_of(weight, done, rows, first, count, panel), Scalar(1),
                           add || done > 0, Transposed::none);
  }
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
