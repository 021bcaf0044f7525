// What the readers of public checkpoint formats have in common: a table of tensors, each put together from stored rows.
#pragma once

#include <cmath>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/core/stored_tensor.hpp>
#include <implicit_attention/core/tensor_source.hpp>
#include <implicit_attention/io/text.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// One tensor of a checkpoint. Its matrix (as TensorSource::read has it) is `parts` one below the other, columns as `column_order` says.
struct CheckpointTensor {
  struct Part {
    StoredTensor stored;
    bool transposed = false;  ///< blocks cannot be read by columns, so such a part is transposed when it is read
  };
  std::vector<Index> shape;
  std::vector<Part> parts;
  std::shared_ptr<const std::vector<Index>> column_order;  ///< column c is the stored column (*column_order)[c]; null: as stored
  double factor = 1;                                       ///< what every number is multiplied by, a power of two or -1
  bool logarithm = false;                                  ///< then the logarithm is taken, in double precision
  std::string unreadable;                                  ///< a type that cannot be read, by its name in the file
  std::string name_in_file;                                ///< empty: as the table has it
};

/// The tensors of a checkpoint by name, and where they are.
struct TensorTable {
  std::string where;
  std::map<std::string, CheckpointTensor, std::less<>> tensors;
  std::function<std::string(std::string_view)> name_of_absent =
      {};  ///< what the file would call a tensor that is not there; null: the same
};

namespace detail {

/// A tensor whose numbers are one run of rows.
[[nodiscard]] inline CheckpointTensor whole_tensor(std::vector<Index> shape, StoredTensor stored) {
  CheckpointTensor tensor;
  tensor.shape = std::move(shape);
  tensor.parts.push_back({std::move(stored), false});
  return tensor;
}

/// The same matrix transposed; its shape is not touched.
inline void transpose_part(CheckpointTensor::Part& part) {
  StoredTensor& stored = part.stored;
  if (in_blocks(stored.dtype) || stored.row_starts) {
    part.transposed = !part.transposed;
    return;
  }
  const std::size_t bytes = dtype_bytes(stored.dtype);
  const auto stride = static_cast<Index>(stored.row_bytes / bytes);  // rows of whole numbers
  stored.row_bytes = static_cast<std::size_t>(stored.column_stride) * bytes;
  stored.column_stride = stride;
  std::swap(stored.rows, stored.columns);
}

/// A matrix transposed, or every matrix of a stack.
[[nodiscard]] inline CheckpointTensor transposed(const CheckpointTensor& tensor, std::string_view who) {
  const std::size_t axes = tensor.shape.size();
  if (axes < 2 || tensor.parts.size() != 1)
    raise(ErrorKind::shape, who, " is ", shape_text(tensor.shape), ", expected a matrix or a stack of matrices");
  CheckpointTensor result;
  result.shape = tensor.shape;
  const Index rows = tensor.shape[axes - 2];
  std::swap(result.shape[axes - 2], result.shape[axes - 1]);
  const StoredTensor& all = tensor.parts.front().stored;
  for (Index first = 0; first < all.rows; first += rows) {
    result.parts.push_back({some_rows(all, first, rows), false});
    transpose_part(result.parts.back());
  }
  return result;
}

/// The same numbers in the same order under another shape. Of quantised tensors only the outer axes may change.
inline void reshape(CheckpointTensor& tensor, std::vector<Index> shape, std::string_view who) {
  const std::optional<Index> before = element_count(tensor.shape, 1), after = element_count(shape, 1);
  const auto [rows, columns] = rows_and_columns(shape);
  const bool one = tensor.parts.size() == 1;
  if (before != after || !one) raise(ErrorKind::shape, who, " is ", shape_text(tensor.shape), ", expected ", shape_text(shape));
  StoredTensor& stored = tensor.parts.front().stored;
  if (stored.columns != columns) {
    const bool contiguous =
        !stored.row_starts && stored.column_stride == 1 &&
        stored.row_bytes == static_cast<std::size_t>(stored.columns) / dtype_numbers(stored.dtype) * dtype_bytes(stored.dtype);
    if (!contiguous || static_cast<std::size_t>(columns) % dtype_numbers(stored.dtype) != 0)
      raise(ErrorKind::shape, who, " is ", shape_text(tensor.shape), " of ", dtype_name(stored.dtype), ", expected ", shape_text(shape));
    stored = stored_rows(stored.dtype, rows, columns, stored.data, stored.keep_alive);
  }
  tensor.shape = std::move(shape);
}

template <Real Scalar>
void read_part(const CheckpointTensor::Part& part, Index columns, Scalar* to) {
  const StoredTensor& stored = part.stored;
  if (!part.transposed) return stored.widen_rows(0, stored.rows, to, columns);
  std::vector<Scalar> row(static_cast<std::size_t>(stored.columns));
  for (Index i = 0; i < stored.rows; ++i) {
    stored.widen_row(i, row.data());
    for (Index j = 0; j < stored.columns; ++j) to[j * columns + i] = row[static_cast<std::size_t>(j)];
  }
}

/// The rows of all parts as one stored tensor; nothing where that is not all there is to the tensor.
[[nodiscard]] inline std::optional<StoredTensor> stored_tensor(const CheckpointTensor& tensor) {
  if (!tensor.unreadable.empty() || tensor.column_order || tensor.factor != 1 || tensor.logarithm || tensor.parts.empty())
    return std::nullopt;
  const StoredTensor& first = tensor.parts.front().stored;
  Index rows = 0;
  for (const CheckpointTensor::Part& part : tensor.parts) {
    if (part.transposed || part.stored.dtype != first.dtype || part.stored.column_stride != first.column_stride) return std::nullopt;
    rows += part.stored.rows;
  }
  if (tensor.parts.size() == 1) return first;
  std::vector<const std::byte*> starts;
  starts.reserve(static_cast<std::size_t>(rows));
  std::vector<std::shared_ptr<const void>> owners;
  for (const CheckpointTensor::Part& part : tensor.parts) {
    for (Index i = 0; i < part.stored.rows; ++i) starts.push_back(part.stored.row(i));
    if (owners.empty() || owners.back() != part.stored.keep_alive) owners.push_back(part.stored.keep_alive);
  }
  StoredTensor joined = first;
  joined.rows = rows;
  joined.row_starts = shared_row_starts(std::move(starts));
  joined.keep_alive = std::make_shared<const std::vector<std::shared_ptr<const void>>>(std::move(owners));
  return joined;
}

template <Real Scalar>
[[nodiscard]] Array<Scalar> read_tensor(const CheckpointTensor& tensor) {
  if (const std::optional<StoredTensor> stored = stored_tensor(tensor)) return stored_array<Scalar>(*stored);
  const auto [rows, columns] = rows_and_columns(tensor.shape);
  Matrix<Scalar> numbers(rows, columns);
  Scalar* to = numbers.data();
  for (const CheckpointTensor::Part& part : tensor.parts) {
    read_part(part, columns, to);
    to += part.stored.rows * part.stored.columns;
  }
  if (tensor.column_order) {
    RowVector<Scalar> row(columns);
    for (Index i = 0; i < rows; ++i) {
      row = numbers.row(i);
      for (Index j = 0; j < columns; ++j) numbers(i, j) = row[(*tensor.column_order)[static_cast<std::size_t>(j)]];
    }
  }
  if (tensor.factor != 1) numbers *= static_cast<Scalar>(tensor.factor);
  if (tensor.logarithm)
    for (Index i = 0; i < numbers.size(); ++i) numbers.data()[i] = static_cast<Scalar>(std::log(static_cast<double>(numbers.data()[i])));
  return Array<Scalar>(std::move(numbers));
}

}  // namespace detail

/// A table of tensors as the models take them.
template <Real Scalar>
class TableSource final : public TensorSource<Scalar> {
 public:
  explicit TableSource(TensorTable table) : table_(std::move(table)) {}

  [[nodiscard]] std::string where() const override { return table_.where; }
  [[nodiscard]] std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, tensor] : table_.tensors) all.push_back(name);
    return all;
  }
  [[nodiscard]] std::optional<std::vector<Index>> shape(std::string_view name) const override {
    const CheckpointTensor* found = find(name);
    return found == nullptr ? std::nullopt : std::optional(found->shape);
  }
  [[nodiscard]] Array<Scalar> read(std::string_view name) const override {
    const CheckpointTensor* found = find(name);
    if (found == nullptr) detail::raise(ErrorKind::file, table_.where, ": tensor ", printable(name_in_file(name)), " is missing");
    if (!found->unreadable.empty())
      detail::raise(ErrorKind::file, table_.where, ": tensor ", printable(name_in_file(name)), " is ", printable(found->unreadable),
                    ", a type that is not read here");
    return detail::read_tensor<Scalar>(*found);
  }
  [[nodiscard]] std::optional<StoredTensor> stored(std::string_view name) const override {
    const CheckpointTensor* found = find(name);
    return found == nullptr ? std::nullopt : detail::stored_tensor(*found);
  }
  [[nodiscard]] std::string name_in_file(std::string_view name) const override {
    const CheckpointTensor* found = find(name);
    std::string own = found != nullptr ? found->name_in_file : table_.name_of_absent ? table_.name_of_absent(name) : std::string();
    return own.empty() || own == name ? std::string(name) : detail::message(own, " (", name, ")");
  }
  [[nodiscard]] const TensorTable& table() const { return table_; }

 private:
  [[nodiscard]] const CheckpointTensor* find(std::string_view name) const {
    const auto found = table_.tensors.find(name);
    return found == table_.tensors.end() ? nullptr : &found->second;
  }
  TensorTable table_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
