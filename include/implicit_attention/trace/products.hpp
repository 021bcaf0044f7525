// Matrix products with weights, shared out over an executor by output columns: bit-identical for any number of workers.
#pragma once

#include <algorithm>

#include <implicit_attention/core/executor.hpp>
#include <implicit_attention/core/large_memory.hpp>
#include <implicit_attention/core/matrix_product.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/core/stored_rows.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Output columns of a product that one worker takes at a time: the cut depends on the sizes alone.
[[nodiscard]] inline Index product_panel(Index columns) {
  const Index eighth = (columns + 7) / 8;
  return std::max<Index>(256, (eighth + 15) / 16 * 16);
}

/// Calls body(first, count) for panels of the output columns through the executor.
template <class Body>
void for_product_panels(Index columns, const Executor& executor, const Body& body) {
  const Index panel = product_panel(columns), panels = (columns + panel - 1) / panel;
  if (panels <= 1) return body(Index(0), columns);
  executor(panels, [&](Index index) { body(index * panel, std::min(panel, columns - index * panel)); });
}

/// u weight^T + bias, (tokens, rows of weight). One function for all layers, so that Eigen's product is compiled once.
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> project(ConstView<Scalar> u, const Array<Scalar>& weight, const Array<Scalar>& bias = {},
                                     const Executor& executor = serial_executor()) {
  Matrix<Scalar> out = large_matrix<Scalar>(u.rows(), weight.rows(), "a projection");
  for_product_panels(weight.rows(), executor, [&](Index first, Index count) {
    set_product_of_rows<Scalar>(out.middleCols(first, count), u, weight, first, count);
    if (!bias.empty()) out.middleCols(first, count).rowwise() += bias.matrix().row(0).segment(first, count);
  });
  return out;
}

/// grad weight: back through `u weight^T`, (tokens, columns of weight).
template <Real Scalar>
[[nodiscard]] Matrix<Scalar> project_back(ConstView<Scalar> grad, const Array<Scalar>& weight,
                                          const Executor& executor = serial_executor()) {
  Matrix<Scalar> out = large_matrix<Scalar>(grad.rows(), weight.cols(), "a gradient");
  for_product_panels(weight.cols(), executor, [&](Index first, Index count) {
    set_product_of_columns<Scalar>(out.middleCols(first, count), grad, weight, first, count);
  });
  return out;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
