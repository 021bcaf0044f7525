// Numbers of any rank on their way into a file, taken from where they are.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <implicit_attention/core/error.hpp>
#include <implicit_attention/core/shape.hpp>
#include <implicit_attention/core/types.hpp>
#include <implicit_attention/io/dtype.hpp>
#include <implicit_attention/io/replaced_file.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// An array of float, double or 64-bit integers, in C order, with its shape. Made from a pointer or an Eigen matrix it is a
/// view: the numbers are the caller's until the file is written, and are never copied. Made from a std::vector it owns them.
class ArrayToWrite {
 public:
  /// `data` holds the product of `shape` numbers; an empty shape is one number.
  template <Storable Number>
  ArrayToWrite(const Number* data, std::vector<Index> shape)
      : dtype_(dtype_of<Number>), shape_(std::move(shape)), data_(reinterpret_cast<const std::byte*>(data)) {}
  /// (rows, columns), rows at any distance.
  template <Real Scalar>
  ArrayToWrite(ConstView<Scalar> view)  // NOLINT(google-explicit-constructor): an array is made in passing
      : ArrayToWrite(view.data(), {view.rows(), view.cols()}) {
    if (view.rows() > 1 && view.outerStride() != view.cols()) strided_rows(view.rows(), view.cols(), view.outerStride());
  }
  /// The same for any row-major Eigen matrix in memory; an Eigen row or column vector is one axis.
  template <class Derived>
    requires detail::EigenDense<Derived> ArrayToWrite(const Derived& matrix)  // NOLINT(google-explicit-constructor)
        : ArrayToWrite(ConstView<typename Derived::Scalar>(matrix)) {
      if constexpr (bool(Derived::IsVectorAtCompileTime)) shape_ = {matrix.size()};
    }
    /// Owns its numbers; one axis, unless `shape` says otherwise.
    template <Storable Number>
    ArrayToWrite(std::vector<Number> numbers,
                 std::optional<std::vector<Index>> shape = std::nullopt)  // NOLINT(google-explicit-constructor)
        : dtype_(dtype_of<Number>), owned_count_(static_cast<Index>(numbers.size())) {
      const auto owned = std::make_shared<const std::vector<Number>>(std::move(numbers));
      shape_ = shape ? std::move(*shape) : std::vector<Index>{*owned_count_};
      data_ = reinterpret_cast<const std::byte*>(owned->data());
      keep_alive_ = owned;
    }

    [[nodiscard]] Dtype dtype() const { return dtype_; }
    [[nodiscard]] const std::vector<Index>& shape() const { return shape_; }

    /// Its size in bytes. Fails, naming `who`, if the shape is negative, overflows, or has no numbers behind it.
    [[nodiscard]] std::size_t checked_bytes(std::string_view who) const {
      const std::optional<Index> count = detail::element_count(shape_, dtype_bytes(dtype_));
      if (!count) detail::raise(ErrorKind::shape, who, ": cannot be written: shape ", shape_text(shape_), " is negative or overflows");
      if (owned_count_ && *owned_count_ != *count)
        detail::raise(ErrorKind::shape, who, ": cannot be written: shape ", shape_text(shape_), " is ", *count, " numbers, but there are ",
                      *owned_count_);
      if (*count > 0 && data_ == nullptr) detail::raise(ErrorKind::value, who, ": cannot be written: there are no numbers behind it");
      return static_cast<std::size_t>(*count) * dtype_bytes(dtype_);
    }

    /// Appends the numbers to `file`; `bytes` as checked_bytes gives them.
    void append_to(ReplacedFile& file, std::size_t bytes) const {
      if (rows_ == 0) return file.write(data_, bytes);
      for (std::size_t row = 0; row < rows_; ++row) file.write(data_ + row * row_distance_, row_bytes_);
    }

   private:
    void strided_rows(Index rows, Index columns, Index row_stride) {
      rows_ = static_cast<std::size_t>(rows);
      row_bytes_ = static_cast<std::size_t>(columns) * dtype_bytes(dtype_);
      row_distance_ = static_cast<std::size_t>(row_stride) * dtype_bytes(dtype_);
    }

    Dtype dtype_;
    std::vector<Index> shape_;
    const std::byte* data_ = nullptr;
    std::size_t rows_ = 0, row_bytes_ = 0, row_distance_ = 0;  // rows_ 0: all numbers one after the other
    std::optional<Index> owned_count_;
    std::shared_ptr<const void> keep_alive_;
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
