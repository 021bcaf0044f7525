// Scalar and matrix aliases. Row-major, tokens first: `(tokens, channels)`, as engines and numpy store.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <type_traits>

#include <implicit_attention/config.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

using Index = Eigen::Index;
static_assert(sizeof(Index) == sizeof(std::ptrdiff_t),
              "implicit_attention: EIGEN_DEFAULT_DENSE_INDEX_TYPE must be std::ptrdiff_t, as it is by default");

/// The scalars everything is computed in. Half and bfloat16 are storage, widened on reading.
template <class T>
concept Real = std::same_as<T, float> || std::same_as<T, double>;

/// A row-major matrix that owns its numbers.
template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A row of numbers that owns them, e.g. one per channel.
template <class Scalar>
using RowVector = Eigen::Matrix<Scalar, 1, Eigen::Dynamic, Eigen::RowMajor>;

namespace detail {
/// double, for what is summed up in it whatever the scalar. A name that depends on the scalar: of `double` itself Eigen's classes would be
/// compiled for everybody who includes the header, not for those who use what it declares.
template <Real Scalar>
using WideScalar = std::common_type_t<Scalar, double>;

template <class Derived>
concept EigenDense = std::derived_from<Derived, Eigen::DenseBase<Derived>>;

/// Whether an Eigen object is rows of contiguous numbers in memory, so that it can be viewed without a copy.
template <class Derived>
constexpr bool viewable = (Derived::IsRowMajor || Derived::IsVectorAtCompileTime) &&
                          (int(Derived::Flags) & int(Eigen::DirectAccessBit)) != 0 && int(Derived::InnerStrideAtCompileTime) == 1;
}  // namespace detail

/// A read-only view of a row-major matrix: rows of contiguous numbers, any distance between rows.
/// Made from any Eigen object that is one in memory; a column-major matrix or an expression is refused at compile time,
/// never copied in silence. It does not keep the numbers alive.
template <class Scalar>
class ConstView : public Eigen::Map<const Matrix<Scalar>, 0, Eigen::OuterStride<>> {
 public:
  using Base = Eigen::Map<const Matrix<Scalar>, 0, Eigen::OuterStride<>>;
  ConstView() : Base(nullptr, 0, 0, Eigen::OuterStride<>(0)) {}
  ConstView(const ConstView&) = default;
  ConstView(const Scalar* data, Index rows, Index columns) : Base(data, rows, columns, Eigen::OuterStride<>(columns)) {}
  ConstView(const Scalar* data, Index rows, Index columns, Index row_stride)
      : Base(data, rows, columns, Eigen::OuterStride<>(row_stride)) {}
  /// Of a View, too.
  ConstView(const Eigen::Map<Matrix<Scalar>, 0, Eigen::OuterStride<>>& view)  // NOLINT(google-explicit-constructor)
      : ConstView(view.data(), view.rows(), view.cols(), view.outerStride()) {}
  template <class Derived>
    requires detail::EigenDense<Derived> ConstView(const Derived& matrix)  // NOLINT(google-explicit-constructor): matrices convert to views
        : Base(checked(matrix), shape_rows(matrix), shape_columns(matrix), Eigen::OuterStride<>(row_stride(matrix))) {}

   private:
    // A column vector (n, 1) of contiguous numbers is taken as one row of n.
    template <class Derived>
    static constexpr bool column = Derived::ColsAtCompileTime == 1 && Derived::RowsAtCompileTime != 1 && !bool(Derived::IsRowMajor);
    template <class Derived>
    static const Scalar* checked(const Derived& matrix) {
      static_assert(
          std::is_same_v<typename Derived::Scalar, Scalar>,
          "implicit_attention: the matrix has another scalar type than the layer (no silent conversion: use .cast<Scalar>().eval())");
      static_assert(detail::viewable<Derived>,
                    "implicit_attention: pass a row-major matrix in memory, (tokens, channels); a column-major matrix or an expression "
                    "is not copied in silence: use implicit_attention::Matrix<Scalar>, or Matrix<Scalar>(expression)");
      return matrix.data();
    }
    template <class Derived>
    static Index shape_rows(const Derived& matrix) {
      return column<Derived> ? 1 : matrix.rows();
    }
    template <class Derived>
    static Index shape_columns(const Derived& matrix) {
      return column<Derived> ? matrix.rows() : matrix.cols();
    }
    template <class Derived>
    static Index row_stride(const Derived& matrix) {
      return column<Derived> ? matrix.rows() : matrix.outerStride();
    }
};

/// A view of the caller's row-major matrix that is written into.
template <class Scalar>
class View : public Eigen::Map<Matrix<Scalar>, 0, Eigen::OuterStride<>> {
 public:
  using Base = Eigen::Map<Matrix<Scalar>, 0, Eigen::OuterStride<>>;
  using Base::operator=;
  View(const View&) = default;
  View& operator=(const View& other) {
    Base::operator=(other);
    return *this;
  }
  /// As Eigen's, which is an expression to be instantiated.
  View& setZero() {
    for (Index row = 0; row < this->rows(); ++row) std::fill_n(this->data() + row * this->outerStride(), this->cols(), Scalar(0));
    return *this;
  }
  View(Scalar* data, Index rows, Index columns) : Base(data, rows, columns, Eigen::OuterStride<>(columns)) {}
  View(Scalar* data, Index rows, Index columns, Index row_stride) : Base(data, rows, columns, Eigen::OuterStride<>(row_stride)) {}
  template <class Derived>
    requires detail::EigenDense<std::remove_reference_t<Derived>> &&
        (!std::is_const_v<std::remove_reference_t<Derived>>)View(Derived&& matrix)  // NOLINT
        : Base(checked(matrix), matrix.rows(), matrix.cols(), Eigen::OuterStride<>(matrix.outerStride())) {}

   private:
    template <class Derived>
    static Scalar* checked(Derived& matrix) {
      static_assert(std::is_same_v<typename Derived::Scalar, Scalar>,
                    "implicit_attention: the output has another scalar type than the layer");
      static_assert(detail::viewable<Derived> && Derived::IsRowMajor,
                    "implicit_attention: the output must be a row-major matrix in memory");
      return matrix.data();
    }
};

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
