// A tensor's rows or columns in another order, without copying numbers.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <implicit_attention/core/types.hpp>
#include <implicit_attention/io/tensor_table.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Row i of the result is row from(i).
template <class From>
[[nodiscard]] CheckpointTensor rows_in_order(const CheckpointTensor& tensor, From from) {
  const StoredTensor& stored = tensor.parts.front().stored;
  return whole_tensor(tensor.shape, picked_rows(stored, stored.rows, from));
}
/// Column i of the result is column from(i).
template <class From>
[[nodiscard]] CheckpointTensor columns_in_order(CheckpointTensor tensor, From from) {
  std::vector<Index> order;
  const Index columns = tensor.shape.back();
  for (Index i = 0; i < columns; ++i) order.push_back(from(i));
  tensor.column_order = std::make_shared<const std::vector<Index>>(std::move(order));
  return tensor;
}
/// A matrix by rows, a vector by its numbers.
template <class From>
[[nodiscard]] CheckpointTensor in_order(const CheckpointTensor& tensor, From from) {
  return tensor.shape.size() == 1 ? columns_in_order(tensor, from) : rows_in_order(tensor, from);
}
/// So many rows: row i is the stored row from(i).
template <class From>
[[nodiscard]] CheckpointTensor some_rows_in_order(const CheckpointTensor& tensor, Index rows, From from) {
  CheckpointTensor made = whole_tensor(tensor.shape, picked_rows(tensor.parts.front().stored, rows, from));
  made.shape.front() = rows;
  return made;
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
