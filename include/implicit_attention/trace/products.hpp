// Work shared out over an executor: products with weights by tiles of their results, everything else by rows; bit-identical for any
// number of workers.
#pragma once

#include <algorithm>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/lanes.hpp>
#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/core/matrix_product.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/core/stored_rows.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Rows (tokens) and output columns of a product that one worker takes at a time: small enough that two workers end together, large enough
/// that packing them costs little. The cut depends on the sizes alone.
constexpr Index shared_tile_rows = 256, shared_tile_columns = 192;
/// Output columns of a product of a single token; of a few, as many less.
constexpr Index shared_row_columns = 1536;

/// Neighbours of `count` that are taken together, about `about` of them: shares of equal size, multiples of 16.
[[nodiscard]] inline Index product_share(Index count, Index about) {
  const Index shares = std::max<Index>(1, (count + about / 2) / about);
  return std::max<Index>(1, ((count + shares - 1) / shares + 15) / 16 * 16);
}

/// Calls body(first row, rows, first column, columns) for tiles of a product's result through the executor.
template <class Body>
void for_product_tiles(Index rows, Index columns, const Executor& executor, const Body& body) {
  if (rows == 0 || columns == 0) return;
  const Index high = product_share(rows, shared_tile_rows),
              wide = product_share(columns, std::max(shared_tile_columns, shared_row_columns / rows));
  const Index down = (rows + high - 1) / high, across = (columns + wide - 1) / wide;
  const auto tile = [&](Index index) {
    const Index row = index / across * high, column = index % across * wide;
    body(row, std::min(high, rows - row), column, std::min(wide, columns - column));
  };
  if (down * across == 1) return tile(0);
  run_loop(executor, down * across, tile);
}

/// Rows of a matrix, or a panel of neighbouring rows, as numbers in a row.
template <Real Scalar>
[[nodiscard]] Numbers<Scalar> numbers_in(Matrix<Scalar>& matrix, Index first, Index count) {
  return Numbers<Scalar>(matrix.data() + first * matrix.cols(), count * matrix.cols());
}
template <Real Scalar>
[[nodiscard]] ConstNumbers<Scalar> numbers_in(const Matrix<Scalar>& matrix, Index first, Index count) {
  return ConstNumbers<Scalar>(matrix.data() + first * matrix.cols(), count * matrix.cols());
}
template <Real Scalar>
[[nodiscard]] Numbers<Scalar> numbers_in(View<Scalar> panel) {
  return Numbers<Scalar>(panel.data(), panel.size());
}

/// A matrix (rows, columns) whose panels of rows are made by fill(panel, first, count).
template <Real Scalar, class Fill>
[[nodiscard]] Matrix<Scalar> filled_by_rows(Index rows, Index columns, const Executor& executor, const Fill& fill) {
  Matrix<Scalar> out = large_matrix<Scalar>(rows, columns, "an activation");
  for_row_panels(rows, columns, executor,
                 [&](Index first, Index count) { fill(View<Scalar>(out.data() + first * columns, count, columns), first, count); });
  return out;
}

/// The sum of all products a b, number by number.
template <Real Scalar>
[[nodiscard]] Scalar sum_of_products(ConstView<Scalar> a, ConstView<Scalar> b) {
  return a.cwiseProduct(b).sum();
}
/// u weight^T + bias, (tokens, rows of weight). One function for all layers, so that it is compiled once.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> project(ConstView<Scalar> u, const Array<Scalar>& weight, const Array<Scalar>& bias = {},
                                     const Executor& executor = serial_executor()) {
  Matrix<Scalar> out = large_matrix<Scalar>(u.rows(), weight.rows(), "a projection");
  for_product_tiles(u.rows(), weight.rows(), executor, [&](Index row, Index rows, Index first, Index count) {
    set_product_of_rows<Scalar>(out.block(row, first, rows, count), u.middleRows(row, rows), weight, first, count);
    if (bias.empty()) return;
    for (Index i = row; i < row + rows; ++i) Numbers<Scalar>(&out(i, first), count) += ConstNumbers<Scalar>(bias.data() + first, count);
  });
  return out;
}

/// The first row with a number that is not 0; their count where there is none.
template <Real Scalar>
[[nodiscard]] Index first_row_reached(ConstView<Scalar> gradient) {
  Index row = 0;
  while (row < gradient.rows() && (gradient.row(row).array() == Scalar(0)).all()) ++row;
  return row;
}

/// Adds grad weight, back through `u weight^T`, to a gradient (tokens, columns of weight); stores it where there is none yet. Tokens before
/// the first that `grad` reaches are not multiplied: in the last layer these are all but the one that is explained.
template <Real Scalar>
void project_back(ConstView<Scalar> grad, const Array<Scalar>& weight, Matrix<Scalar>& gradient,
                  const Executor& executor = serial_executor()) {
  const bool add = gradient.size() != 0;
  const Index begin = first_row_reached<Scalar>(grad);
  if (!add) {
    gradient = large_matrix<Scalar>(grad.rows(), weight.cols(), "a gradient");
    gradient.topRows(begin).setZero();
  }
  for_product_tiles(grad.rows() - begin, weight.cols(), executor, [&](Index row, Index rows, Index first, Index count) {
    product_of_columns<Scalar>(gradient.block(begin + row, first, rows, count), grad.middleRows(begin + row, rows), weight, first, count,
                               add);
  });
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
