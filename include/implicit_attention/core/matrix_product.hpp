// Products of matrices in memory, each compiled once a scalar: Eigen's own are compiled anew for every combination of argument types.
#pragma once

#include <type_traits>

#include <implicit_attention/core/types.hpp>

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Which factor of a product is transposed; types, so that a program compiles those products alone that it uses.
struct Transposed {
  struct None {};
  struct Left {};
  struct Right {};
  static constexpr None none{};
  static constexpr Left left{};
  static constexpr Right right{};
};

/// out += sign a b, with sign = 1 or -1. `out` must not overlap a or b.
template <Real Scalar>
EIGEN_DONT_INLINE void add_signed_product(View<Scalar> out, ConstView<Scalar> a, ConstView<Scalar> b, Scalar sign, Transposed::None) {
  out.noalias() += sign * (a * b);
}
/// out += sign a^T b.
template <Real Scalar>
EIGEN_DONT_INLINE void add_signed_product(View<Scalar> out, ConstView<Scalar> a, ConstView<Scalar> b, Scalar sign, Transposed::Left) {
  out.noalias() += sign * (a.transpose() * b);
}
/// out += sign a b^T.
template <Real Scalar>
EIGEN_DONT_INLINE void add_signed_product(View<Scalar> out, ConstView<Scalar> a, ConstView<Scalar> b, Scalar sign, Transposed::Right) {
  out.noalias() += sign * (a * b.transpose());
}

/// out += a b, out += a^T b or out += a b^T; `out` is a matrix, or a block or view of one.
template <class Out, class Which = Transposed::None>
void add_product(Out&& out, ConstView<typename std::remove_cvref_t<Out>::Scalar> a, ConstView<typename std::remove_cvref_t<Out>::Scalar> b,
                 Which which = {}) {
  using Scalar = typename std::remove_cvref_t<Out>::Scalar;
  add_signed_product<Scalar>(View<Scalar>(out), a, b, Scalar(1), which);
}
/// out -= a b, likewise.
template <class Out, class Which = Transposed::None>
void subtract_product(Out&& out, ConstView<typename std::remove_cvref_t<Out>::Scalar> a,
                      ConstView<typename std::remove_cvref_t<Out>::Scalar> b, Which which = {}) {
  using Scalar = typename std::remove_cvref_t<Out>::Scalar;
  add_signed_product<Scalar>(View<Scalar>(out), a, b, Scalar(-1), which);
}
/// out = a b, likewise; a matrix is resized, a block or a view has the right shape already.
template <class Out, class Which = Transposed::None>
void set_product(Out&& out, ConstView<typename std::remove_cvref_t<Out>::Scalar> a, ConstView<typename std::remove_cvref_t<Out>::Scalar> b,
                 Which which = {}) {
  using Scalar = typename std::remove_cvref_t<Out>::Scalar;
  if constexpr (std::is_same_v<std::remove_cvref_t<Out>, Matrix<Scalar>>)
    out.resize(std::is_same_v<Which, Transposed::Left> ? a.cols() : a.rows(),
               std::is_same_v<Which, Transposed::Right> ? b.rows() : b.cols());
  out.setZero();
  add_signed_product<Scalar>(View<Scalar>(out), a, b, Scalar(1), which);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
