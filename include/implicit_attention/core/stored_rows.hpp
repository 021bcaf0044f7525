// Rows of a weight where they are used: as they lie in memory, or widened out of storage, a panel at a time.
#pragma once

#include <algorithm>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/matrix_product.hpp>

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

/// One row of a weight, such as a token's embedding. Nothing else of it is read.
template <Real Scalar>
[[nodiscard]] RowVector<Scalar> row_of(const Array<Scalar>& weight, Index row) {
  Matrix<Scalar> panel;
  return RowVector<Scalar>(numbers_of(weight, row, 1, 0, weight.cols(), panel).row(0));
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

/// out = grad weight for columns `first` to `first + count` of the weight; `out` (tokens, count).
template <Real Scalar>
void set_product_of_columns(View<Scalar> out, ConstView<Scalar> grad, const Array<Scalar>& weight, Index first, Index count) {
  Matrix<Scalar> panel;
  out.setZero();
  for (Index done = 0; done < weight.rows(); done += stored_panel_rows) {
    const Index rows = std::min(stored_panel_rows, weight.rows() - done);
    add_product(out, grad.middleCols(done, rows), numbers_of(weight, done, rows, first, count, panel));
  }
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
