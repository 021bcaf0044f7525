// Weights and activations: numbers that are owned, views of numbers that a caller owns, or numbers that stay as a file stores them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include <implicit_attention/core/stored_tensor.hpp>
#include <implicit_attention/core/types.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// A matrix in storage, and its numbers once all of them have been requested.
template <class Scalar>
class StoredNumbers {
 public:
  explicit StoredNumbers(StoredTensor stored) : stored_(std::move(stored)) {}
  StoredNumbers(const StoredNumbers&) = delete;
  StoredNumbers& operator=(const StoredNumbers&) = delete;
  ~StoredNumbers() { delete widened_.load(std::memory_order_acquire); }

  [[nodiscard]] const StoredTensor& stored() const { return stored_; }
  /// All numbers, row by row. Concurrent first calls may each widen them; one result is kept.
  [[nodiscard]] const Scalar* data() const {
    if (const Matrix<Scalar>* const known = widened_.load(std::memory_order_acquire)) return known->data();
    auto numbers = std::make_unique<Matrix<Scalar>>(stored_.rows, stored_.columns);
    stored_.widen_rows(0, stored_.rows, numbers->data(), stored_.columns);
    const Matrix<Scalar>* before = nullptr;
    if (widened_.compare_exchange_strong(before, numbers.get(), std::memory_order_acq_rel)) return numbers.release()->data();
    return before->data();
  }

 private:
  StoredTensor stored_;
  mutable std::atomic<const Matrix<Scalar>*> widened_{nullptr};
};

}  // namespace detail

/// A read-only row-major matrix that either owns its numbers (shared by copies, never changed) or views memory it does not own
/// (an engine's buffer, a mapped file), without a copy. Empty until given something: an absent bias, say.
/// Or it stands for numbers in storage (`storage()`): products and lookups widen the rows that they need (core/stored_rows.hpp), and
/// whatever needs them as a matrix widens all of them once and keeps them.
template <class Scalar>
class Array {
 public:
  Array() = default;
  // Not inline: weights, activations and forms hold dozens of arrays, and every copy or destruction would count owners in place.
  EIGEN_DONT_INLINE Array(const Array&) = default;
  EIGEN_DONT_INLINE Array(Array&& other) noexcept { take(other); }  // which is empty then
  EIGEN_DONT_INLINE Array& operator=(const Array&) = default;
  EIGEN_DONT_INLINE Array& operator=(Array&& other) noexcept {
    if (this != &other) take(other);
    return *this;
  }
  EIGEN_DONT_INLINE ~Array() = default;
  /// Takes ownership.
  Array(Matrix<Scalar> owned)  // NOLINT(google-explicit-constructor)
      : Array(std::make_shared<Matrix<Scalar>>(std::move(owned))) {}
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

  /// Stands for a readable matrix in storage.
  [[nodiscard]] static Array of_storage(StoredTensor stored) {
    Array array;
    array.rows_ = stored.rows;
    array.columns_ = array.row_stride_ = stored.columns;
    const auto* const numbers = new detail::StoredNumbers<Scalar>(std::move(stored));
    array.keep_alive_.reset(numbers);
    array.stored_ = numbers;
    return array;
  }

  /// The matrix in storage that this array stands for; null where its numbers are in memory.
  [[nodiscard]] const StoredTensor* storage() const { return stored_ != nullptr ? &stored_->stored() : nullptr; }
  [[nodiscard]] Index rows() const { return rows_; }
  [[nodiscard]] Index cols() const { return columns_; }
  [[nodiscard]] Index size() const { return rows_ * columns_; }
  [[nodiscard]] bool empty() const { return rows_ == 0 || columns_ == 0; }
  [[nodiscard]] const Scalar* data() const { return data_ != nullptr ? data_ : widened(); }
  [[nodiscard]] Index row_stride() const { return row_stride_; }
  /// The numbers as an Eigen matrix; valid as long as this array (or a copy of it) lives.
  [[nodiscard]] ConstView<Scalar> operator*() const { return {data(), rows_, columns_, row_stride_}; }
  [[nodiscard]] ConstView<Scalar> matrix() const { return **this; }
  /// Row `i` of the numbers.
  [[nodiscard]] const Scalar* row(Index i) const { return data() + i * row_stride_; }
  [[nodiscard]] Scalar operator()(Index i, Index j) const { return row(i)[j]; }
  /// What the numbers belong to, shared with every array that looks at them; null for a view of a caller's memory.
  [[nodiscard]] const std::shared_ptr<const void>& owner() const { return keep_alive_; }

  /// The numbers to be changed in place, where this array owns them and no other array shares them; else null. For whoever holds the last
  /// array of them: numbers that anybody else looks at never change.
  [[nodiscard]] Matrix<Scalar>* sole_owner() {
    return whole_ && keep_alive_.use_count() == 1 ? static_cast<Matrix<Scalar>*>(const_cast<void*>(keep_alive_.get())) : nullptr;
  }

  /// Neighbouring rows, or columns, as an array that shares these numbers (and keeps them alive as this one does); nothing is copied.
  /// Of an empty array, such as an absent bias, they are empty.
  [[nodiscard]] Array middle_rows(Index first, Index count) const {
    if (empty()) return {};
    return stored_ != nullptr ? of_storage(detail::some_rows(*storage(), first, count))
                              : part(data_ + first * row_stride_, count, columns_);
  }
  [[nodiscard]] Array middle_columns(Index first, Index count) const { return empty() ? Array() : part(data() + first, rows_, count); }

 private:
  /// Not inline: kernels call for many rows and must not have this in their loops.
  [[nodiscard]] EIGEN_DONT_INLINE const Scalar* widened() const { return stored_ != nullptr ? stored_->data() : nullptr; }
  [[nodiscard]] Array part(const Scalar* first, Index rows, Index columns) const {
    Array array = *this;
    array.stored_ = nullptr;
    array.whole_ = false;
    array.data_ = first;
    array.rows_ = rows;
    array.columns_ = columns;
    return array;
  }
  void take(Array& other) noexcept {
    data_ = std::exchange(other.data_, nullptr);
    rows_ = std::exchange(other.rows_, 0);
    columns_ = std::exchange(other.columns_, 0);
    row_stride_ = std::exchange(other.row_stride_, 0);
    whole_ = std::exchange(other.whole_, false);
    stored_ = std::exchange(other.stored_, nullptr);
    keep_alive_ = std::move(other.keep_alive_);
  }
  explicit Array(std::shared_ptr<Matrix<Scalar>> owned) : whole_(true) {
    data_ = owned->data();
    rows_ = owned->rows();
    columns_ = owned->cols();
    row_stride_ = columns_;
    keep_alive_ = std::move(owned);
  }

  const Scalar* data_ = nullptr;
  Index rows_ = 0, columns_ = 0, row_stride_ = 0;
  bool whole_ = false;                                     // keep_alive_ is a Matrix<Scalar>, made for arrays, and this is all of it
  std::shared_ptr<const void> keep_alive_;                 // every copy counts it: arrays are copied by dozens
  const detail::StoredNumbers<Scalar>* stored_ = nullptr;  // held by keep_alive_; null: the numbers are at data_
};

namespace detail {

/// A caller's argument as an array: a temporary matrix is moved in, everything else is viewed and must be kept alive by the caller.
template <class Scalar, class Given>
[[nodiscard]] Array<Scalar> taken_or_viewed(Given&& given) {
  if constexpr (std::is_same_v<Given, Matrix<Scalar>>)
    return Array<Scalar>(std::forward<Given>(given));
  else if constexpr (requires { requires std::is_base_of_v<Eigen::PlainObjectBase<std::remove_cv_t<Given>>, Given>; })
    return Array<Scalar>(Matrix<Scalar>(ConstView<Scalar>(given)));
  else
    return Array<Scalar>::view(ConstView<Scalar>(given));
}

}  // namespace detail

template <Real Scalar>
Array<Scalar> StoredTensor::view() const {
  constexpr Dtype own = sizeof(Scalar) == sizeof(double) ? Dtype::F64 : Dtype::F32;
  const bool even = !row_starts && column_stride == 1 && (rows <= 1 || row_bytes % sizeof(Scalar) == 0);
  if (dtype != own || !even || rows == 0 || columns == 0 || reinterpret_cast<std::uintptr_t>(data) % alignof(Scalar) != 0) return {};
  const Index stride = rows <= 1 ? columns : static_cast<Index>(row_bytes / sizeof(Scalar));
  return Array<Scalar>::view(ConstView<Scalar>(reinterpret_cast<const Scalar*>(data), rows, columns, stride), keep_alive);
}

namespace detail {

/// Rows as columns.
template <Real Scalar>
[[nodiscard]] Array<Scalar> transposed(const Array<Scalar>& array) {
  Matrix<Scalar> turned(array.cols(), array.rows());
  for (Index row = 0; row < array.rows(); ++row)
    for (Index column = 0; column < array.cols(); ++column) turned(column, row) = array.row(row)[column];
  return turned;
}

/// Below this many numbers a tensor in storage is widened when it is read: norms, rates and convolutions are used number by number, and a
/// weight of less than 2 MiB in float32 stays in a processor's cache, where widening it anew costs a short text more than its products.
inline constexpr Index smallest_stored = Index(1) << 19U;

/// Numbers in storage as an array: a view where they are stored as `Scalar`, the storage itself where it is large, else a converted copy.
template <Real Scalar>
[[nodiscard]] Array<Scalar> stored_array(const StoredTensor& stored) {
  if (Array<Scalar> view = stored.template view<Scalar>(); !view.empty()) return view;
  if (stored.rows > 1 && stored.rows * stored.columns >= smallest_stored) return Array<Scalar>::of_storage(stored);
  Matrix<Scalar> numbers(stored.rows, stored.columns);
  stored.widen_rows(0, stored.rows, numbers.data(), stored.columns);
  return Array<Scalar>(std::move(numbers));
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
