// Products of matrices in memory, each compiled once a scalar: Eigen's own are compiled anew for every combination of argument types.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include <implicit_attention/core/copy_transposed.hpp>
#include <implicit_attention/core/row_product.hpp>

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
constexpr Index product_rows = 512;
#if defined(__GNUC__)
/// Rows whose entries are summed up in registers together, beside two columns of registers or, where no two are left, one. Processors with
/// registers of 64 bytes have 32 of them, the others 16.
template <int Registers>
constexpr int product_tile_rows = Registers == 2 && vector_register_bytes < 64 ? 6 : 8;
template <class Scalar>
constexpr Index product_tile_columns = 2 * computed_lanes<Scalar>;

/// A tile of the result: rows 0 .. min(rows, Rows) - 1 of `a` times a panel (inner, `Registers` registers).
template <int Registers, int Rows, Real Scalar>
EIGEN_DONT_INLINE void multiply_tile(const LeftFactor<Scalar>& a, Index inner, const Scalar* panel, Scalar sign, bool add, Scalar* out,
                                     Index out_stride) {
  using Register = typename VectorRegister<Scalar>::type;
  constexpr int lanes = computed_lanes<Scalar>;
  const Index rows = std::min<Index>(a.rows, Rows), step = a.inner_step;
  const Scalar* row[static_cast<std::size_t>(Rows)];
  Register sums[static_cast<std::size_t>(Rows)][static_cast<std::size_t>(Registers)] = {};
  IMPLICIT_ATTENTION_UNROLL
  for (int r = 0; r < Rows; ++r)
    row[r] = a.data + std::min<Index>(r, rows - 1) * a.row_step;  // past the end: the last row again, discarded
  for (Index k = 0, at = 0; k < inner; ++k, at += step, panel += Registers * lanes) {
    Register right[static_cast<std::size_t>(Registers)];
    IMPLICIT_ATTENTION_UNROLL
    for (int c = 0; c < Registers; ++c) right[c] = *reinterpret_cast<const Register*>(panel + c * lanes);
    IMPLICIT_ATTENTION_UNROLL
    for (int r = 0; r < Rows; ++r) IMPLICIT_ATTENTION_UNROLL
    for (int c = 0; c < Registers; ++c) sums[r][c] += row[r][at] * right[c];
  }
  IMPLICIT_ATTENTION_UNROLL
  for (int r = 0; r < Rows; ++r) {
    if (r == rows) return;
    Register* const to = reinterpret_cast<Register*>(out + r * out_stride);
    IMPLICIT_ATTENTION_UNROLL
    for (int c = 0; c < Registers; ++c) to[c] = add ? to[c] + sign * sums[r][c] : sign * sums[r][c];
  }
}

/// The same for as many rows as a whole tile has, by half of one where no more are left.
template <int Registers, Real Scalar>
void multiply_rows(const LeftFactor<Scalar>& a, Index inner, const Scalar* panel, Scalar sign, bool add, Scalar* out, Index out_stride) {
  constexpr int whole = product_tile_rows<Registers>;
  if (a.rows > whole / 2)
    multiply_tile<Registers, whole>(a, inner, panel, sign, add, out, out_stride);
  else
    multiply_tile<Registers, whole / 2>(a, inner, panel, sign, add, out, out_stride);
}

/// Part of a factor that is used later, asked for a share at a time: memory, and a cache that is shared by many processors, give what is read
/// a few lines here and a few there at half of their rate or less.
template <Real Scalar>
class PartPrefetch {
 public:
  PartPrefetch() = default;
  /// Rows of `columns` numbers side by side.
  PartPrefetch(const Scalar* from, Index step, Index rows, Index columns) : from_(from), step_(step), rows_(rows), columns_(columns) {}

  /// Asks for all that `done` of `whole` is of the part.
  void ask(Index done, Index whole) {
    constexpr Index line = 64 / static_cast<Index>(sizeof(Scalar));
    for (const Index end = std::min(rows_, (rows_ * done + whole - 1) / whole); asked_ < end; ++asked_)
      for (Index column = 0; column < columns_; column += line) __builtin_prefetch(from_ + asked_ * step_ + column, 0, 2);
  }

 private:
  const Scalar* from_ = nullptr;
  Index step_ = 0, rows_ = 0, columns_ = 0, asked_ = 0;
};

/// A right factor as its numbers stand in memory: number (k, j) at data[k * inner_step + j * column_step].
template <Real Scalar>
struct RightFactor {
  const Scalar* data;
  Index inner, inner_step, column_step;

  [[nodiscard]] bool transposed() const { return inner_step == 1; }
  /// Columns that are asked for together: a panel, or eight where a panel is a line or two of each row (16 tokens against 3072 x 768 numbers:
  /// 24 GFLOP/s, by long rows ahead 34).
  [[nodiscard]] Index group() const { return (transposed() ? 1 : 8) * product_tile_columns<Scalar>; }
  /// The group of columns from `begin` on, of `columns`.
  [[nodiscard]] PartPrefetch<Scalar> part(Index begin, Index columns) const {
    const Scalar* const from = data + begin * column_step;
    const Index count = std::min(group(), columns - begin);
    if (transposed()) return {from, column_step, count, inner};
    return {from, inner_step, inner, count};
  }
  /// Whether it is too large for a cache that needs nothing to be asked for.
  [[nodiscard]] bool asked_for(Index columns) const { return inner * columns >= (transposed() ? Index(1) << 14 : Index(1) << 18); }
};

/// Copies a panel of a right factor that is not transposed: rows of as many numbers as a tile has columns.
template <Real Scalar>
EIGEN_ALWAYS_INLINE void copy_panel(const Scalar* from, Index step, Index inner, Scalar* panel) {
  using Register = typename VectorRegister<Scalar>::type;
  constexpr Index whole = product_tile_columns<Scalar>, lanes = computed_lanes<Scalar>, line = 64 / static_cast<Index>(sizeof(Scalar));
  constexpr Index ahead = 16;  // rows
  for (Index k = 0; k < inner; ++k, from += step, panel += whole) {
    for (Index column = 0; column < whole; column += line) __builtin_prefetch(from + ahead * step + column);
    for (Index column = 0; column < whole; column += lanes)
      *reinterpret_cast<Register*>(panel + column) = *reinterpret_cast<const Register*>(from + column);
  }
}

/// out (+)= sign a b for at most product_inner sums. What is multiplied next is asked for meanwhile: `after`, or null, of the right factor,
/// `left` of the left one.
template <Real Scalar>
EIGEN_DONT_INLINE void multiply_panels(View<Scalar> out, const LeftFactor<Scalar>& a, const RightFactor<Scalar>& b, Scalar sign, bool add,
                                       const RightFactor<Scalar>* after, PartPrefetch<Scalar> left) {
  constexpr Index whole = product_tile_columns<Scalar>, half = whole / 2;
  const Index columns = out.cols(), stride = out.outerStride(), inner = b.inner, group = b.group();
  alignas(64) Scalar panel[static_cast<std::size_t>(product_inner * whole)];
  alignas(64) Scalar part[static_cast<std::size_t>(std::max(product_tile_rows<2> * whole, product_tile_rows<1> * half))];
  PartPrefetch<Scalar> next;
  for (Index column = 0; column < columns; column += whole) {
    const Index count = std::min(whole, columns - column), width = count <= half ? half : whole;
    const Index tile_rows = width == half ? product_tile_rows<1> : product_tile_rows<2>;
    const auto multiply = width == half ? multiply_rows<1, Scalar> : multiply_rows<2, Scalar>;
    if (after != nullptr && column % group == 0)
      next = column + group < columns ? b.part(column + group, columns) : after->part(0, columns);
    if (count < width) std::fill_n(panel, inner * width, Scalar(0));
    const Scalar* const from = b.data + column * b.column_step;
    if (b.transposed())
      copy_transposed(from, b.column_step, count, inner, panel, width);
    else if (count == whole)
      copy_panel(from, b.inner_step, inner, panel);
    else
      for (Index k = 0; k < inner; ++k) std::copy_n(from + k * b.inner_step, count, panel + k * width);
    LeftFactor<Scalar> rest = a;
    for (Index row = 0; row < a.rows; row += tile_rows) {
      rest.data = a.data + row * a.row_step;
      rest.rows = a.rows - row;
      left.ask(column / whole * a.rows + row + tile_rows, (columns + whole - 1) / whole * a.rows);
      if (after != nullptr) next.ask(column % group / whole * a.rows + row + tile_rows, group / whole * a.rows);
      Scalar* const to = out.data() + row * stride + column;
      for (Index r = 0; r < std::min(rest.rows, tile_rows); ++r)
        for (Index c = 0; c < count; c += half) __builtin_prefetch(to + r * stride + c, 1);
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
EIGEN_DONT_INLINE void multiply_blocks(View<Scalar> out, const LeftFactor<Scalar>& a, const RightFactor<Scalar>& b, Scalar sign, bool add) {
  const auto block = [&](Index begin) {
    return RightFactor<Scalar>{b.data + begin * b.inner_step, std::min(product_inner, b.inner - begin), b.inner_step, b.column_step};
  };
  const bool ahead = b.asked_for(out.cols());
  if (ahead && !b.transposed()) block(0).part(0, out.cols()).ask(1, 1);
  for (Index row = 0; row < a.rows; row += product_rows)
    for (Index k = 0; k < b.inner; k += product_inner) {
      const LeftFactor<Scalar> part{a.data + row * a.row_step + k * a.inner_step, std::min(product_rows, a.rows - row), a.row_step,
                                    a.inner_step};
      const Index next = k + product_inner < b.inner ? k + product_inner : 0;  // the first again: tiles beside this one begin with it
      const RightFactor<Scalar> after = block(next);
      PartPrefetch<Scalar> left;
      if (a.inner_step == 1 && b.inner > product_inner) left = {part.data + next - k, a.row_step, part.rows, after.inner};
      multiply_panels(View<Scalar>(out.data() + row * out.outerStride(), part.rows, out.cols(), out.outerStride()), part, block(k), sign,
                      add || k > 0, ahead ? &after : nullptr, left);
    }
}

/// Numbers of a part of a product of few rows before it is transposed.
constexpr Index product_part = Index(96) * 64;
/// Whether the rows of a left factor are few beside a right one of so many numbers, and nearly fill the registers that they are copied to.
template <class Scalar>
[[nodiscard]] constexpr bool few_rows(Index rows, Index right_numbers) {
  constexpr Index lanes = computed_lanes<Scalar>;
  return rows <= product_part / 96 && right_numbers >= Index(1) << 16 && (rows + lanes - 1) / lanes * lanes - rows <= lanes / 2;
}

/// out = sign a b^T for few rows of a, as the transposed of b a^T: the few rows of a are copied to panels, not the many of b.
template <Real Scalar>
EIGEN_DONT_INLINE void multiply_few_rows(View<Scalar> out, const LeftFactor<Scalar>& a, Index inner, ConstView<Scalar> b, Scalar sign) {
  alignas(64) Scalar part[static_cast<std::size_t>(product_part)];
  const Index wide = product_part / a.rows / 16 * 16;
  for (Index first = 0; first < out.cols(); first += wide) {
    const Index count = std::min(wide, out.cols() - first);
    multiply_blocks(View<Scalar>(part, count, a.rows, a.rows),
                    LeftFactor<Scalar>{b.data() + first * b.outerStride(), count, b.outerStride(), 1},
                    RightFactor<Scalar>{a.data, inner, 1, a.row_step}, sign, false);
    copy_transposed(part, a.rows, count, a.rows, out.data() + first, out.outerStride());
  }
}

/// out (+)= sign a b for one row; with `Right`, b is transposed.
template <Real Scalar, class Which>
void multiply_row(View<Scalar> out, const LeftFactor<Scalar>& a, Index inner, ConstView<Scalar> b, Scalar sign, bool add) {
  const Scalar* numbers = a.data;
  RowVector<Scalar> own;
  if (a.inner_step != 1) {
    own.resize(inner);
    for (Index k = 0; k < inner; ++k) own[k] = a.data[k * a.inner_step];
    numbers = own.data();
  }
  if constexpr (std::is_same_v<Which, Transposed::Right>)
    return multiply_row_transposed<Scalar>(out.data(), out.cols(), numbers, inner, b.data(), b.outerStride(), sign, add);
  if (!add) out.setZero();
  add_row_product<Scalar>(out.data(), out.cols(), sign, numbers, inner, b.data(), b.outerStride());
}

/// out (+)= sign a b; with `Right`, b is transposed. Every entry is added up in the same order, however the columns are shared out; with one
/// row and b as it is, in Eigen's.
template <Real Scalar, class Which>
void multiply_matrices(View<Scalar> out, const LeftFactor<Scalar>& a, Index inner, ConstView<Scalar> b, Scalar sign, bool add, Which) {
  constexpr bool right = std::is_same_v<Which, Transposed::Right>;
  if (a.rows == 1) return multiply_row<Scalar, Which>(out, a, inner, b, sign, add);
  if (inner == 0 && !add) out.setZero();
  if constexpr (right)
    if (!add && a.inner_step == 1 && few_rows<Scalar>(a.rows, out.cols() * inner)) return multiply_few_rows<Scalar>(out, a, inner, b, sign);
  multiply_blocks(out, a, RightFactor<Scalar>{b.data(), inner, right ? 1 : b.outerStride(), right ? b.outerStride() : 1}, sign, add);
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
