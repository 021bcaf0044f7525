// Products of matrices in memory, each compiled once a scalar: Eigen's own are compiled anew for every combination of argument types.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include <implicit_attention/core/types.hpp>
#include <implicit_attention/core/vector_register.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Which factor of a product is transposed; types, so that a program compiles those products alone that it uses.
struct Transposed {
  struct Neither {};
  struct Left {};
  struct Right {};
  static constexpr Neither none{};
  static constexpr Left left{};
  static constexpr Right right{};
};

/// A left factor as its numbers stand in memory: number (i, k) at data[i * row_step + k * inner_step].
template <Real Scalar>
struct LeftFactor {
  const Scalar* data;
  Index rows, row_step, inner_step;
};

// Eigen's products prepare more than they multiply where blocks are small, and use half of some machines' multipliers where they are large.
// Here a panel of the right factor is copied, and rows of the left one are read where they stand.

/// Length of the sums that one pass adds up: a panel of the right factor fits the nearest cache.
constexpr Index product_inner = 256;
/// Rows that use a panel: their part of the left factor fits the second cache.
constexpr Index product_rows = 384;
#if defined(__GNUC__)
/// Entries that are summed up in registers together.
constexpr Index product_tile_rows = 6, product_half_tile_rows = 8;
template <class Scalar>
constexpr Index product_tile_columns = 2 * vector_register_bytes / static_cast<int>(sizeof(Scalar));

/// Register `row` of two that lie `Distance` rows apart, after one step of a transposition: every other run of `Distance` numbers of each.
template <int Distance, bool Second, class Register, int... Place>
[[nodiscard]] EIGEN_ALWAYS_INLINE Register exchanged([[maybe_unused]] Register first, [[maybe_unused]] Register second,
                                                     std::integer_sequence<int, Place...>) {
#if IMPLICIT_ATTENTION_SHUFFLES
  constexpr int lanes = sizeof...(Place);
  return __builtin_shufflevector(first, second,
                                 ((Place & Distance) == 0 ? Place + (Second ? Distance : 0) : lanes + Place - (Second ? 0 : Distance))...);
#else
  return first;
#endif
}
/// Transposes `lanes` registers of `lanes` numbers.
template <int Distance, int Lanes, class Scalar>
EIGEN_ALWAYS_INLINE void transpose_registers(typename VectorRegister<Scalar>::type* rows) {
  using Register = typename VectorRegister<Scalar>::type;
  if constexpr (Distance < Lanes) {
    constexpr std::make_integer_sequence<int, Lanes> places{};
    IMPLICIT_ATTENTION_UNROLL
    for (int row = 0; row < Lanes; ++row)
      if ((row & Distance) == 0) {
        const Register first = rows[row], second = rows[row + Distance];
        rows[row] = exchanged<Distance, false>(first, second, places);
        rows[row + Distance] = exchanged<Distance, true>(first, second, places);
      }
    transpose_registers<2 * Distance, Lanes, Scalar>(rows);
  }
}
/// How far ahead of what is copied memory is asked for: more rows are read side by side than a processor follows by itself.
template <class Scalar>
constexpr Index product_copied_ahead = 256 / static_cast<Index>(sizeof(Scalar));

/// A panel of a factor that is transposed, `width` columns, a register's or two: panel[k * width + c] = from[c * step + k].
template <Real Scalar>
EIGEN_DONT_INLINE void copy_transposed(const Scalar* from, Index step, Index inner, Scalar* panel, Index width) {
  Index done = 0;
#if IMPLICIT_ATTENTION_SHUFFLES
  using Register = typename VectorRegister<Scalar>::type;
  constexpr int lanes = static_cast<int>(product_tile_columns<Scalar> / 2);
  for (; done + lanes <= inner; done += lanes)
    for (Index column = 0; column < width; column += lanes) {
      Register rows[static_cast<std::size_t>(lanes)];
      for (int c = 0; c < lanes; ++c) {
        const Scalar* const numbers = from + (column + c) * step + done;
        __builtin_prefetch(numbers + product_copied_ahead<Scalar>);
        rows[c] = *reinterpret_cast<const Register*>(numbers);
      }
      transpose_registers<1, lanes, Scalar>(rows);
      for (int k = 0; k < lanes; ++k) *reinterpret_cast<Register*>(panel + (done + k) * width + column) = rows[k];
    }
#endif
  for (Index c = 0; c < width; ++c)
    for (Index k = done; k < inner; ++k) panel[k * width + c] = from[c * step + k];
}

/// The same with a panel of one register's columns: what is left of a result whose columns fill no two.
template <Real Scalar>
EIGEN_DONT_INLINE void multiply_half_tile(const LeftFactor<Scalar>& a, Index inner, const Scalar* panel, Scalar sign, bool add, Scalar* out,
                                          Index out_stride) {
  using Register = typename VectorRegister<Scalar>::type;
  constexpr Index lanes = product_tile_columns<Scalar> / 2;
  const Index rows = std::min(a.rows, product_half_tile_rows), step = a.inner_step;
  const auto row = [&](Index r) { return a.data + std::min(r, rows - 1) * a.row_step; };
  const Scalar *row0 = row(0), *row1 = row(1), *row2 = row(2), *row3 = row(3), *row4 = row(4), *row5 = row(5), *row6 = row(6),
               *row7 = row(7);
  Register sum0 = {}, sum1 = {}, sum2 = {}, sum3 = {}, sum4 = {}, sum5 = {}, sum6 = {}, sum7 = {};
  for (Index k = 0, at = 0; k < inner; ++k, at += step, panel += lanes) {
    const Register right = *reinterpret_cast<const Register*>(panel);
    sum0 += row0[at] * right;
    sum1 += row1[at] * right;
    sum2 += row2[at] * right;
    sum3 += row3[at] * right;
    sum4 += row4[at] * right;
    sum5 += row5[at] * right;
    sum6 += row6[at] * right;
    sum7 += row7[at] * right;
  }
  const Register sums[] = {sum0, sum1, sum2, sum3, sum4, sum5, sum6, sum7};
  for (Index r = 0; r < rows; ++r) {
    Register* const to = reinterpret_cast<Register*>(out + r * out_stride);
    *to = add ? *to + sign * sums[r] : sign * sums[r];
  }
}

/// A tile of the result: rows 0 .. min(rows, product_tile_rows) - 1 of `a` times a panel (inner, product_tile_columns).
template <Real Scalar>
EIGEN_DONT_INLINE void multiply_tile(const LeftFactor<Scalar>& a, Index inner, const Scalar* panel, Scalar sign, bool add, Scalar* out,
                                     Index out_stride) {
  using Register = typename VectorRegister<Scalar>::type;
  constexpr Index lanes = product_tile_columns<Scalar> / 2;
  const Index rows = std::min(a.rows, product_tile_rows), step = a.inner_step;
  const auto row = [&](Index r) { return a.data + std::min(r, rows - 1) * a.row_step; };  // past the end: the last row again, discarded
  const Scalar *row0 = row(0), *row1 = row(1), *row2 = row(2), *row3 = row(3), *row4 = row(4), *row5 = row(5);
  Register left0 = {}, left1 = {}, left2 = {}, left3 = {}, left4 = {}, left5 = {};
  Register right0 = {}, right1 = {}, right2 = {}, right3 = {}, right4 = {}, right5 = {};
  for (Index k = 0, at = 0; k < inner; ++k, at += step, panel += 2 * lanes) {
    const Register left = *reinterpret_cast<const Register*>(panel), right = *reinterpret_cast<const Register*>(panel + lanes);
    left0 += row0[at] * left;
    right0 += row0[at] * right;
    left1 += row1[at] * left;
    right1 += row1[at] * right;
    left2 += row2[at] * left;
    right2 += row2[at] * right;
    left3 += row3[at] * left;
    right3 += row3[at] * right;
    left4 += row4[at] * left;
    right4 += row4[at] * right;
    left5 += row5[at] * left;
    right5 += row5[at] * right;
  }
  const Register left[] = {left0, left1, left2, left3, left4, left5}, right[] = {right0, right1, right2, right3, right4, right5};
  for (Index r = 0; r < rows; ++r) {
    Register* const to = reinterpret_cast<Register*>(out + r * out_stride);
    to[0] = add ? to[0] + sign * left[r] : sign * left[r];
    to[1] = add ? to[1] + sign * right[r] : sign * right[r];
  }
}

/// out (+)= sign a b: number (k, j) of b at b[k * inner_step + j * column_step], for at most product_inner sums.
template <Real Scalar>
EIGEN_DONT_INLINE void multiply_panels(View<Scalar> out, const LeftFactor<Scalar>& a, Index inner, const Scalar* b, Index inner_step,
                                       Index column_step, Scalar sign, bool add) {
  constexpr Index whole = product_tile_columns<Scalar>, half = whole / 2;
  const Index columns = out.cols(), stride = out.outerStride();
  alignas(64) Scalar panel[static_cast<std::size_t>(product_inner * whole)];
  alignas(64) Scalar part[static_cast<std::size_t>(std::max(product_tile_rows * whole, product_half_tile_rows * half))];
  for (Index column = 0; column < columns; column += whole) {
    const Index count = std::min(whole, columns - column), width = count <= half ? half : whole;
    const Index tile_rows = width == half ? product_half_tile_rows : product_tile_rows;
    const auto multiply = width == half ? multiply_half_tile<Scalar> : multiply_tile<Scalar>;
    if (count < width) std::fill_n(panel, inner * width, Scalar(0));
    const Scalar* const from = b + column * column_step;
    if (inner_step == 1 && count == width) {
      copy_transposed(from, column_step, inner, panel, width);
    } else if (inner_step == 1) {
      for (Index c = 0; c < count; ++c)
        for (Index k = 0; k < inner; ++k) panel[k * width + c] = from[c * column_step + k];
    } else {
      for (Index k = 0; k < inner; ++k) std::copy_n(from + k * inner_step, count, panel + k * width);
    }
    LeftFactor<Scalar> rest = a;
    for (Index row = 0; row < a.rows; row += tile_rows) {
      rest.data = a.data + row * a.row_step;
      rest.rows = a.rows - row;
      Scalar* const to = out.data() + row * stride + column;
      if (count == width) {
        multiply(rest, inner, panel, sign, add, to, stride);
        continue;
      }
      multiply(rest, inner, panel, sign, false, part, width);
      for (Index r = 0; r < std::min(rest.rows, tile_rows); ++r)
        for (Index c = 0; c < count; ++c) to[r * stride + c] = add ? to[r * stride + c] + part[r * width + c] : part[r * width + c];
    }
  }
}

/// The same of any size.
template <Real Scalar>
EIGEN_DONT_INLINE void multiply_blocks(View<Scalar> out, const LeftFactor<Scalar>& a, Index inner, const Scalar* b, Index inner_step,
                                       Index column_step, Scalar sign, bool add) {
  for (Index row = 0; row < a.rows; row += product_rows)
    for (Index k = 0; k < inner; k += product_inner) {
      const LeftFactor<Scalar> part{a.data + row * a.row_step + k * a.inner_step, std::min(product_rows, a.rows - row), a.row_step,
                                    a.inner_step};
      multiply_panels(View<Scalar>(out.data() + row * out.outerStride(), part.rows, out.cols(), out.outerStride()), part,
                      std::min(product_inner, inner - k), b + k * inner_step, inner_step, column_step, sign, add || k > 0);
    }
}

/// out += sign numbers b for a row of numbers side by side, by Eigen's product of a matrix in memory with a vector; of a row-major `Order`,
/// b is transposed. One instantiation per scalar and order: Eigen's is compiled anew for every kind of factor and sign.
template <Real Scalar, int Order>
EIGEN_DONT_INLINE void add_row_product(Scalar* out, Index columns, Scalar sign, const Scalar* numbers, Index inner, const Scalar* b,
                                       Index stride) {
  using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;
  Eigen::Map<Vector>(out, columns).noalias() +=
      sign * (Eigen::Map<const Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Order>, 0, Eigen::OuterStride<>>(
                  b, columns, inner, Eigen::OuterStride<>(stride)) *
              Eigen::Map<const Vector>(numbers, inner));
}
/// out (+)= sign a b for one row; with `Right`, b is transposed.
template <Real Scalar, class Which>
void multiply_row(View<Scalar> out, const LeftFactor<Scalar>& a, Index inner, ConstView<Scalar> b, Scalar sign, bool add) {
  if (!add) out.setZero();
  const Scalar* numbers = a.data;
  RowVector<Scalar> own;
  if (a.inner_step != 1) {
    own.resize(inner);
    for (Index k = 0; k < inner; ++k) own[k] = a.data[k * a.inner_step];
    numbers = own.data();
  }
  constexpr int order = std::is_same_v<Which, Transposed::Right> ? Eigen::RowMajor : Eigen::ColMajor;
  add_row_product<Scalar, order>(out.data(), out.cols(), sign, numbers, inner, b.data(), b.outerStride());
}

/// out (+)= sign a b; with `Right`, b is transposed. Of two rows and more every entry is added up in the same order, however the columns
/// are shared out; of one, in Eigen's.
template <Real Scalar, class Which>
void multiply_matrices(View<Scalar> out, const LeftFactor<Scalar>& a, Index inner, ConstView<Scalar> b, Scalar sign, bool add, Which) {
  constexpr bool right = std::is_same_v<Which, Transposed::Right>;
  if (a.rows == 1) return multiply_row<Scalar, Which>(out, a, inner, b, sign, add);
  if (inner == 0 && !add) out.setZero();
  multiply_blocks(out, a, inner, b.data(), right ? 1 : b.outerStride(), right ? b.outerStride() : 1, sign, add);
}
#endif

/// out (+)= sign a b, with sign = 1 or -1. `out` must not overlap a or b.
template <Real Scalar>
EIGEN_DONT_INLINE void signed_product(View<Scalar> out, ConstView<Scalar> a, ConstView<Scalar> b, Scalar sign, bool add,
                                      [[maybe_unused]] Transposed::Neither which) {
#if defined(__GNUC__)
  multiply_matrices(out, LeftFactor<Scalar>{a.data(), a.rows(), a.outerStride(), 1}, a.cols(), b, sign, add, which);
#else
  if (!add) out.setZero();
  out.noalias() += sign * (a * b);
#endif
}
/// out (+)= sign a^T b.
template <Real Scalar>
EIGEN_DONT_INLINE void signed_product(View<Scalar> out, ConstView<Scalar> a, ConstView<Scalar> b, Scalar sign, bool add,
                                      [[maybe_unused]] Transposed::Left which) {
#if defined(__GNUC__)
  multiply_matrices(out, LeftFactor<Scalar>{a.data(), a.cols(), 1, a.outerStride()}, a.rows(), b, sign, add, which);
#else
  if (!add) out.setZero();
  out.noalias() += sign * (a.transpose() * b);
#endif
}
/// out (+)= sign a b^T.
template <Real Scalar>
EIGEN_DONT_INLINE void signed_product(View<Scalar> out, ConstView<Scalar> a, ConstView<Scalar> b, Scalar sign, bool add,
                                      [[maybe_unused]] Transposed::Right which) {
#if defined(__GNUC__)
  multiply_matrices(out, LeftFactor<Scalar>{a.data(), a.rows(), a.outerStride(), 1}, a.cols(), b, sign, add, which);
#else
  if (!add) out.setZero();
  out.noalias() += sign * (a * b.transpose());
#endif
}

/// out += a b, out += a^T b or out += a b^T; `out` is a matrix, or a block or view of one.
template <class Out, class Which = Transposed::Neither>
void add_product(Out&& out, ConstView<typename std::remove_cvref_t<Out>::Scalar> a, ConstView<typename std::remove_cvref_t<Out>::Scalar> b,
                 Which which = {}) {
  using Scalar = typename std::remove_cvref_t<Out>::Scalar;
  signed_product<Scalar>(View<Scalar>(out), a, b, Scalar(1), true, which);
}
/// out -= a b, likewise.
template <class Out, class Which = Transposed::Neither>
void subtract_product(Out&& out, ConstView<typename std::remove_cvref_t<Out>::Scalar> a,
                      ConstView<typename std::remove_cvref_t<Out>::Scalar> b, Which which = {}) {
  using Scalar = typename std::remove_cvref_t<Out>::Scalar;
  signed_product<Scalar>(View<Scalar>(out), a, b, Scalar(-1), true, which);
}
/// out = a b, likewise; a matrix is resized, a block or a view has the right shape already.
template <class Out, class Which = Transposed::Neither>
void set_product(Out&& out, ConstView<typename std::remove_cvref_t<Out>::Scalar> a, ConstView<typename std::remove_cvref_t<Out>::Scalar> b,
                 Which which = {}) {
  using Scalar = typename std::remove_cvref_t<Out>::Scalar;
  if constexpr (std::is_same_v<std::remove_cvref_t<Out>, Matrix<Scalar>>)
    out.resize(std::is_same_v<Which, Transposed::Left> ? a.cols() : a.rows(),
               std::is_same_v<Which, Transposed::Right> ? b.rows() : b.cols());
  signed_product<Scalar>(View<Scalar>(out), a, b, Scalar(1), false, which);
}

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
