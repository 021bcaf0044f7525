// Weights and activations: numbers that are owned, or views of numbers that a caller owns.
#pragma once

#include <memory>
#include <utility>

#include <implicit_attention/core/types.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// A read-only row-major matrix that either owns its numbers (shared by copies, never changed) or views those of others
/// (an engine's buffer, a mapped file), without a copy. Empty until given something: an absent bias, say.
template <class Scalar>
class Array {
 public:
  Array() = default;
  /// Takes ownership.
  Array(Matrix<Scalar> owned)  // NOLINT(google-explicit-constructor)
      : Array(std::make_shared<const Matrix<Scalar>>(std::move(owned))) {}
  /// Takes ownership of one row of numbers.
  Array(const RowVector<Scalar>& owned) : Array(Matrix<Scalar>(owned)) {}  // NOLINT(google-explicit-constructor)
  /// Views numbers that the caller keeps alive; `keep_alive`, if given, is held as long as this array or a copy of it lives.
  [[nodiscard]] static Array view(ConstView<Scalar> numbers, std::shared_ptr<const void> keep_alive = nullptr) {
    Array array;
    array.data_ = numbers.data();
    array.rows_ = numbers.rows();
    array.columns_ = numbers.cols();
    array.row_stride_ = numbers.outerStride();
    array.keep_alive_ = std::move(keep_alive);
    return array;
  }

  [[nodiscard]] Index rows() const { return rows_; }
  [[nodiscard]] Index cols() const { return columns_; }
  [[nodiscard]] Index size() const { return rows_ * columns_; }
  [[nodiscard]] bool empty() const { return size() == 0; }
  [[nodiscard]] const Scalar* data() const { return data_; }
  [[nodiscard]] Index row_stride() const { return row_stride_; }
  /// The numbers as an Eigen matrix; valid as long as this array (or a copy of it) lives.
  [[nodiscard]] ConstView<Scalar> operator*() const { return {data_, rows_, columns_, row_stride_}; }
  [[nodiscard]] ConstView<Scalar> matrix() const { return **this; }
  /// Row `i` of the numbers.
  [[nodiscard]] const Scalar* row(Index i) const { return data_ + i * row_stride_; }
  [[nodiscard]] Scalar operator()(Index i, Index j) const { return row(i)[j]; }
  /// What the numbers belong to, shared with every array that looks at them; null for a view of a caller's memory.
  [[nodiscard]] const std::shared_ptr<const void>& owner() const { return keep_alive_; }

  /// Neighbouring rows, or columns, as an array that shares these numbers (and keeps them alive as this one does); nothing is copied.
  /// Of an empty array, such as an absent bias, they are empty.
  [[nodiscard]] Array middle_rows(Index first, Index count) const {
    return empty() ? Array() : part(data_ + first * row_stride_, count, columns_);
  }
  [[nodiscard]] Array middle_columns(Index first, Index count) const { return empty() ? Array() : part(data_ + first, rows_, count); }

 private:
  [[nodiscard]] Array part(const Scalar* first, Index rows, Index columns) const {
    Array array = *this;
    array.data_ = first;
    array.rows_ = rows;
    array.columns_ = columns;
    return array;
  }
  explicit Array(std::shared_ptr<const Matrix<Scalar>> owned) {
    data_ = owned->data();
    rows_ = owned->rows();
    columns_ = owned->cols();
    row_stride_ = columns_;
    keep_alive_ = std::move(owned);
  }

  const Scalar* data_ = nullptr;
  Index rows_ = 0, columns_ = 0, row_stride_ = 0;
  std::shared_ptr<const void> keep_alive_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
