// Neighbouring channels that are computed together: fixed numbers of them, in whole registers without a remainder loop.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>
#include <utility>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/types.hpp>
#include <implicit_attention/core/vector_register.hpp>

/// Everything that the function calls becomes a part of it. Compilers leave Eigen's assignments out of long functions as functions of
/// their own; the tile is then in memory between them, and the processor, which sees all arrays' reads at one place, cannot foresee them:
/// a scan took up to three times as long. Not where nothing is optimised or everything is instrumented: that would take minutes to compile.
#if defined(__GNUC__) && defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
#define IMPLICIT_ATTENTION_FLATTEN __attribute__((flatten))
#else
#define IMPLICIT_ATTENTION_FLATTEN
#endif

IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// Lanes that are computed in one step: as many as a vector register of the target machine holds, and 4 at least, since fewer do not pay
/// for the loop around them (doubles on a machine of 16 bytes, where a LaneRegister has 2: `computed_lanes`).
template <class Scalar>
constexpr int register_lanes = std::max(4, EIGEN_MAX_STATIC_ALIGN_BYTES / static_cast<int>(sizeof(Scalar)));

constexpr std::size_t line_bytes = 64;
/// Numbers of a cache line.
template <class Scalar>
constexpr Index numbers_in_a_line = static_cast<Index>(line_bytes / sizeof(Scalar));

/// Numbers from `to` to where the next cache line begins; none where numbers straddle lines.
template <class Scalar>
[[nodiscard]] Index rest_of_line(const Scalar* to) {
  const std::size_t beyond = reinterpret_cast<std::uintptr_t>(to) % line_bytes;
  return beyond % sizeof(Scalar) == 0 ? static_cast<Index>((line_bytes - beyond) % line_bytes / sizeof(Scalar)) : 0;
}

/// Numbers of a LaneRegister that fills a vector register of the target machine.
template <class Scalar>
constexpr int computed_lanes = vector_register_bytes / static_cast<int>(sizeof(Scalar));

/// `Count` neighbouring numbers that are computed together, at most a vector register of them: the compiler's own type where it has one, so
/// that sums stay in registers. Reads and writes at any address.
#if defined(__GNUC__)
template <class Scalar, int Count>
struct LaneRegister {
  typedef Scalar type __attribute__((vector_size(Count * sizeof(Scalar)), aligned(alignof(Scalar)), may_alias));
  static type zero() { return type{}; }
  static type load(const Scalar* from) { return *reinterpret_cast<const type*>(from); }
  static void store(Scalar* to, type numbers) { *reinterpret_cast<type*>(to) = numbers; }
};
#else
template <class Scalar, int Count>
struct LaneRegister {
  using type = Eigen::Array<Scalar, 1, Count, Eigen::RowMajor>;
  static type zero() { return type::Zero(); }
  static type load(const Scalar* from) { return Eigen::Map<const type>(from); }
  static void store(Scalar* to, const type& numbers) { Eigen::Map<type>(to) = numbers; }
};
#endif
template <class Scalar>
struct LaneRegister<Scalar, 1> {
  using type = Scalar;
  static type zero() { return 0; }
  static type load(const Scalar* from) { return *from; }
  static void store(Scalar* to, type number) { *to = number; }
};

/// exp of a register, by Eigen.
template <class Scalar, int Count>
EIGEN_ALWAYS_INLINE typename LaneRegister<Scalar, Count>::type exponential(const typename LaneRegister<Scalar, Count>::type& x) {
  using Register = LaneRegister<Scalar, Count>;
  if constexpr (Count == 1) {
    return std::exp(x);
  } else {
#if defined(__GNUC__)
    using Packet = typename Eigen::internal::find_best_packet<Scalar, Count>::type;
    if constexpr (Eigen::internal::unpacket_traits<Packet>::size == Count && Eigen::internal::packet_traits<Scalar>::HasExp) {
      Packet numbers;
      std::memcpy(&numbers, &x, sizeof(x));
      numbers = Eigen::internal::pexp(numbers);
      typename Register::type result;
      std::memcpy(&result, &numbers, sizeof(result));
      return result;
    }
#endif
    Scalar numbers[static_cast<std::size_t>(Count)];
    Register::store(numbers, x);
    for (Scalar& number : numbers) number = std::exp(number);
    return Register::load(numbers);
  }
}

/// What is computed lane by lane when it is assigned: `Scalar`, `width` numbers, and the registers one by one, at(i). Eigen's expressions of
/// fixed sizes do the same, but a compiler has fifty functions to make of each; here it has four.
template <class E>
concept LaneExpression = requires {
  typename E::LaneExpressionTag;
};

/// Numbers of a register of `Width` lanes.
template <class Scalar, int Width>
constexpr int lanes_in_a_register = std::gcd(Width, computed_lanes<Scalar>);

/// What owns its lanes is referred to in an expression, all else is small and copied.
template <class E>
using LaneOperand = std::conditional_t<E::owns_lanes, const E&, E>;

enum class LaneOperation { add, subtract, multiply };

template <LaneOperation Operation, class A, class B>
class LaneBinary {
 public:
  using LaneExpressionTag = void;
  using Scalar = typename A::Scalar;
  static constexpr int width = A::width;
  static constexpr bool owns_lanes = false;
  static_assert(width == B::width);

  EIGEN_ALWAYS_INLINE LaneBinary(const A& a, const B& b) : a_(a), b_(b) {}
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto at(int i) const -> typename LaneRegister<Scalar, lanes_in_a_register<Scalar, width>>::type {
    if constexpr (Operation == LaneOperation::add) return a_.at(i) + b_.at(i);
    if constexpr (Operation == LaneOperation::subtract) return a_.at(i) - b_.at(i);
    if constexpr (Operation == LaneOperation::multiply) return a_.at(i) * b_.at(i);
  }

 private:
  LaneOperand<A> a_;
  LaneOperand<B> b_;
};

/// The same number in every lane.
template <class Number, int Width>
class LaneConstant {
 public:
  using LaneExpressionTag = void;
  using Scalar = Number;
  static constexpr int width = Width;
  static constexpr bool owns_lanes = false;

  EIGEN_ALWAYS_INLINE explicit LaneConstant(Number number) : number_(number) {}
  [[nodiscard]] EIGEN_ALWAYS_INLINE Number at(int) const { return number_; }

 private:
  Number number_;
};

template <class A>
class LaneExponential {
 public:
  using LaneExpressionTag = void;
  using Scalar = typename A::Scalar;
  static constexpr int width = A::width;
  static constexpr bool owns_lanes = false;

  EIGEN_ALWAYS_INLINE explicit LaneExponential(const A& a) : a_(a) {}
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto at(int i) const { return exponential<Scalar, lanes_in_a_register<Scalar, width>>(a_.at(i)); }

 private:
  LaneOperand<A> a_;
};

template <LaneExpression A, LaneExpression B>
EIGEN_ALWAYS_INLINE auto operator+(const A& a, const B& b) {
  return LaneBinary<LaneOperation::add, A, B>(a, b);
}
template <LaneExpression A, LaneExpression B>
EIGEN_ALWAYS_INLINE auto operator-(const A& a, const B& b) {
  return LaneBinary<LaneOperation::subtract, A, B>(a, b);
}
template <LaneExpression A, LaneExpression B>
EIGEN_ALWAYS_INLINE auto operator*(const A& a, const B& b) {
  return LaneBinary<LaneOperation::multiply, A, B>(a, b);
}
template <LaneExpression A>
EIGEN_ALWAYS_INLINE auto operator*(typename A::Scalar number, const A& a) {
  return LaneConstant<typename A::Scalar, A::width>(number) * a;
}
template <LaneExpression A>
EIGEN_ALWAYS_INLINE auto operator*(const A& a, typename A::Scalar number) {
  return a * LaneConstant<typename A::Scalar, A::width>(number);
}
template <LaneExpression A>
EIGEN_ALWAYS_INLINE auto exp(const A& a) {
  return LaneExponential<A>(a);
}

/// `Width` neighbouring numbers of somebody's memory: what is assigned goes there.
template <class Numbers, int Width>
class LanesAt {
 public:
  using LaneExpressionTag = void;
  using Scalar = std::remove_const_t<Numbers>;
  static constexpr int width = Width, count = lanes_in_a_register<Scalar, Width>;
  static constexpr bool owns_lanes = false;
  using Register = LaneRegister<Scalar, count>;

  EIGEN_ALWAYS_INLINE explicit LanesAt(Numbers* numbers) : numbers_(numbers) {}
  LanesAt(const LanesAt&) = default;
  EIGEN_ALWAYS_INLINE LanesAt& operator=(const LanesAt& numbers) { return assign(numbers); }
  template <LaneExpression E>
  EIGEN_ALWAYS_INLINE LanesAt& operator=(const E& e) {
    return assign(e);
  }
  template <LaneExpression E>
  EIGEN_ALWAYS_INLINE LanesAt& operator+=(const E& e) {
    return assign(*this + e);
  }
  template <LaneExpression E>
  EIGEN_ALWAYS_INLINE LanesAt& operator*=(const E& e) {
    return assign(*this * e);
  }
  EIGEN_ALWAYS_INLINE LanesAt& operator*=(Scalar number) { return assign(*this * number); }
  EIGEN_ALWAYS_INLINE void setZero() {
    IMPLICIT_ATTENTION_UNROLL
    for (int i = 0; i < width; i += count) Register::store(numbers_ + i, Register::zero());
  }
  [[nodiscard]] EIGEN_ALWAYS_INLINE typename Register::type at(int i) const { return Register::load(numbers_ + i * count); }

 private:
  template <class E>
  EIGEN_ALWAYS_INLINE LanesAt& assign(const E& e) {
    IMPLICIT_ATTENTION_UNROLL
    for (int i = 0; i < width / count; ++i) Register::store(numbers_ + i * count, e.at(i));
    return *this;
  }
  Numbers* numbers_;
};

/// `Width` neighbouring channels, in registers.
template <class Number, int Width>
class Lanes {
 public:
  using LaneExpressionTag = void;
  using Scalar = Number;
  static constexpr int width = Width, count = lanes_in_a_register<Scalar, Width>, registers = width / count;
  static constexpr bool owns_lanes = true;
  using Register = LaneRegister<Scalar, count>;

  Lanes() = default;
  template <LaneExpression E>
  EIGEN_ALWAYS_INLINE Lanes(const E& e) {  // NOLINT(google-explicit-constructor)
    *this = e;
  }
  template <LaneExpression E>
  EIGEN_ALWAYS_INLINE Lanes& operator=(const E& e) {
    IMPLICIT_ATTENTION_UNROLL
    for (int i = 0; i < registers; ++i) registers_[i] = e.at(i);
    return *this;
  }
  template <LaneExpression E>
  EIGEN_ALWAYS_INLINE Lanes& operator+=(const E& e) {
    return *this = *this + e;
  }
  template <LaneExpression E>
  EIGEN_ALWAYS_INLINE Lanes& operator*=(const E& e) {
    return *this = *this * e;
  }
  EIGEN_ALWAYS_INLINE Lanes& operator*=(Scalar number) { return *this = *this * number; }

  [[nodiscard]] static EIGEN_ALWAYS_INLINE Lanes Constant(Scalar number) {
    Lanes all;
    IMPLICIT_ATTENTION_UNROLL
    for (int i = 0; i < registers; ++i) all.registers_[i] = Register::zero() + number;
    return all;
  }
  [[nodiscard]] static EIGEN_ALWAYS_INLINE Lanes Zero() {
    Lanes all;
    all.setZero();
    return all;
  }
  [[nodiscard]] static EIGEN_ALWAYS_INLINE Lanes Ones() { return Constant(Scalar(1)); }
  EIGEN_ALWAYS_INLINE void setZero() {
    IMPLICIT_ATTENTION_UNROLL
    for (int i = 0; i < registers; ++i) registers_[i] = Register::zero();
  }
  EIGEN_ALWAYS_INLINE void setOnes() { *this = Ones(); }

  [[nodiscard]] EIGEN_ALWAYS_INLINE typename Register::type at(int i) const { return registers_[i]; }
  EIGEN_ALWAYS_INLINE typename Register::type& at(int i) { return registers_[i]; }
  /// The numbers in memory, for what looks at single ones.
  [[nodiscard]] EIGEN_ALWAYS_INLINE const Scalar* data() const { return reinterpret_cast<const Scalar*>(registers_); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE Scalar* data() { return reinterpret_cast<Scalar*>(registers_); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE Scalar operator[](Index lane) const { return data()[lane]; }
  [[nodiscard]] EIGEN_ALWAYS_INLINE Scalar& operator[](Index lane) { return data()[lane]; }

 private:
  alignas(count * sizeof(Scalar)) typename Register::type registers_[static_cast<std::size_t>(registers)];
};

/// The larger of two numbers in each lane; of a NaN and a number, what is in `a`.
template <class Scalar, int Width>
EIGEN_ALWAYS_INLINE Lanes<Scalar, Width> larger(const Lanes<Scalar, Width>& a, const Lanes<Scalar, Width>& b) {
  Lanes<Scalar, Width> result;
  IMPLICIT_ATTENTION_UNROLL
  for (int i = 0; i < Lanes<Scalar, Width>::registers; ++i) {
#if defined(__GNUC__)
    result.at(i) = b.at(i) > a.at(i) ? b.at(i) : a.at(i);
#else
    result.at(i) = (b.at(i) > a.at(i)).select(b.at(i), a.at(i));
#endif
  }
  return result;
}
/// Likewise the smaller.
template <class Scalar, int Width>
EIGEN_ALWAYS_INLINE Lanes<Scalar, Width> smaller(const Lanes<Scalar, Width>& a, const Lanes<Scalar, Width>& b) {
  Lanes<Scalar, Width> result;
  IMPLICIT_ATTENTION_UNROLL
  for (int i = 0; i < Lanes<Scalar, Width>::registers; ++i) {
#if defined(__GNUC__)
    result.at(i) = b.at(i) < a.at(i) ? b.at(i) : a.at(i);
#else
    result.at(i) = (b.at(i) < a.at(i)).select(b.at(i), a.at(i));
#endif
  }
  return result;
}
/// Without their signs.
template <class Scalar, int Width>
EIGEN_ALWAYS_INLINE Lanes<Scalar, Width> absolute(const Lanes<Scalar, Width>& of) {
  Lanes<Scalar, Width> result;
  IMPLICIT_ATTENTION_UNROLL
  for (int i = 0; i < Lanes<Scalar, Width>::registers; ++i) {
#if defined(__GNUC__)
    if constexpr (Lanes<Scalar, Width>::count > 1) {
      using Bits = decltype(of.at(i) != of.at(i));
      using Register = typename Lanes<Scalar, Width>::Register::type;
      using Integer = std::conditional_t<sizeof(Scalar) == 4, std::int32_t, std::int64_t>;
      result.at(i) = reinterpret_cast<Register>(reinterpret_cast<Bits>(of.at(i)) & std::numeric_limits<Integer>::max());
    } else {
      result.at(i) = std::abs(of.at(i));
    }
#else
    result.at(i) = abs(of.at(i));
#endif
  }
  return result;
}
/// Whether the first `lanes` numbers are all as `is` says.
template <class Scalar, int Width, class Is>
[[nodiscard]] EIGEN_ALWAYS_INLINE bool all_lanes(const Lanes<Scalar, Width>& of, Index lanes, const Is& is) {
  bool all = true;
  for (Index lane = 0; lane < lanes; ++lane) all &= is(of[lane]);
  return all;
}
/// The sum of all lanes.
template <class Scalar, int Width>
[[nodiscard]] EIGEN_ALWAYS_INLINE Scalar sum_of_lanes(const Lanes<Scalar, Width>& of) {
  constexpr int count = Lanes<Scalar, Width>::count;
  using Register = LaneRegister<Scalar, count>;
  typename Register::type together = of.at(0);
  IMPLICIT_ATTENTION_UNROLL
  for (int i = 1; i < Lanes<Scalar, Width>::registers; ++i) together = together + of.at(i);
  Scalar numbers[static_cast<std::size_t>(count)];
  Register::store(numbers, together);
  for (int half = count / 2; half > 0; half /= 2) IMPLICIT_ATTENTION_UNROLL
  for (int i = 0; i < half; ++i) numbers[i] += numbers[i + half];
  return numbers[0];
}
/// The largest number of all lanes, or NaN where one is.
template <class Scalar, int Width>
[[nodiscard]] EIGEN_ALWAYS_INLINE Scalar largest_lane(const Lanes<Scalar, Width>& of) {
  constexpr int count = Lanes<Scalar, Width>::count;
  using Register = LaneRegister<Scalar, count>;
  typename Register::type together = of.at(0);
  IMPLICIT_ATTENTION_UNROLL
  for (int i = 1; i < Lanes<Scalar, Width>::registers; ++i) {
    const typename Register::type next = of.at(i);
#if defined(__GNUC__)
    together = ((together > next) | (together != together)) ? together : next;
#else
    together = together.template max<Eigen::PropagateNaN>(next);
#endif
  }
  Scalar numbers[static_cast<std::size_t>(count)];
  Register::store(numbers, together);
  for (int i = 1; i < count; ++i)
    if (!(numbers[0] > numbers[i]) && numbers[0] == numbers[0]) numbers[0] = numbers[i];
  return numbers[0];
}

/// One row of `Width` channels for each state (or tap, or token); contiguous.
template <class Scalar, int Width>
class LaneRows {
 public:
  LaneRows() = default;
  explicit LaneRows(Index rows) : numbers_(rows * Width) {}
  [[nodiscard]] static LaneRows Zero(Index rows) {
    LaneRows all(rows);
    all.setZero();
    return all;
  }
  [[nodiscard]] Index rows() const { return numbers_.size() / Width; }
  void resize(Index rows) { numbers_.resize(rows * Width); }
  void setZero() { std::fill_n(data(), numbers_.size(), Scalar(0)); }
  [[nodiscard]] const Scalar* data() const { return numbers_.data(); }
  [[nodiscard]] Scalar* data() { return numbers_.data(); }
  [[nodiscard]] LanesAt<const Scalar, Width> row(Index i) const { return LanesAt<const Scalar, Width>(data() + i * Width); }
  [[nodiscard]] LanesAt<Scalar, Width> row(Index i) { return LanesAt<Scalar, Width>(data() + i * Width); }

 private:
  RowVector<Scalar> numbers_;
};

}  // namespace detail

using detail::LaneRows;
using detail::Lanes;

template <int Width, class Scalar>
[[nodiscard]] EIGEN_ALWAYS_INLINE detail::LanesAt<const Scalar, Width> lanes(const Scalar* numbers) {
  return detail::LanesAt<const Scalar, Width>(numbers);
}
template <int Width, class Scalar>
[[nodiscard]] EIGEN_ALWAYS_INLINE detail::LanesAt<Scalar, Width> lanes(Scalar* numbers) {
  return detail::LanesAt<Scalar, Width>(numbers);
}

namespace detail {

/// `Count` numbers from number `By` on of two neighbouring registers.
template <int By, class Scalar, int Count>
EIGEN_ALWAYS_INLINE typename LaneRegister<Scalar, Count>::type shifted(const typename LaneRegister<Scalar, Count>::type& numbers,
                                                                       const typename LaneRegister<Scalar, Count>::type& next) {
#if IMPLICIT_ATTENTION_SHUFFLES
  return [&]<int... n>(std::integer_sequence<int, n...>)->typename LaneRegister<Scalar, Count>::type {
    return __builtin_shufflevector(numbers, next, (By + n)...);
  }
  (std::make_integer_sequence<int, Count>());
#else
  Scalar both[2 * Count];
  LaneRegister<Scalar, Count>::store(both, numbers);
  LaneRegister<Scalar, Count>::store(both + Count, next);
  return LaneRegister<Scalar, Count>::load(both + By);
#endif
}

}  // namespace detail

/// Asks for `Width` numbers that will be read.
template <int Width, class Scalar>
EIGEN_ALWAYS_INLINE void prefetch([[maybe_unused]] const Scalar* numbers) {
#if defined(__GNUC__)
  for (Index i = 0; i < Width; i += detail::numbers_in_a_line<Scalar>) __builtin_prefetch(numbers + i, 0, 2);
  __builtin_prefetch(numbers + (Width - 1), 0, 2);  // where a tile straddles lines
#endif
}

namespace detail {

/// The rows of an array from one column on, found once: a walk reads them by the thousand, and an array asks at each whether its numbers are
/// in memory. Empty where the array is.
template <class Scalar>
class ArrayRows {
 public:
  ArrayRows() = default;
  explicit ArrayRows(const Array<Scalar>& array, Index column = 0)
      : first_(array.empty() ? nullptr : array.data() + column), stride_(array.row_stride()) {}

  [[nodiscard]] bool empty() const { return first_ == nullptr; }
  [[nodiscard]] const Scalar* row(Index i) const { return first_ + i * stride_; }
  [[nodiscard]] Index stride() const { return stride_; }

 private:
  const Scalar* first_ = nullptr;
  Index stride_ = 0;
};

}  // namespace detail

/// The same of a row that is there, unless the array is empty.
template <int Width, class Scalar>
EIGEN_ALWAYS_INLINE void prefetch(const detail::ArrayRows<Scalar>& rows, Index row) {
  if (!rows.empty()) prefetch<Width>(rows.row(row));
}

/// Multiplies rows first..end-1 of `Width` neighbouring channels, contiguous, by those of arrays; an empty array changes nothing.
template <int Width, class Scalar>
EIGEN_ALWAYS_INLINE void scale_rows(const detail::ArrayRows<Scalar>& array, Index first, Index end, Scalar* rows) {
  if (array.empty()) return;
  for (Index row = first; row < end; ++row) lanes<Width>(rows + (row - first) * Width) *= lanes<Width>(array.row(row));
}
template <int Width, class Scalar>
EIGEN_ALWAYS_INLINE void scale_rows(const detail::ArrayRows<Scalar>& one, const detail::ArrayRows<Scalar>& other, Index first, Index end,
                                    Scalar* rows) {
  if (one.empty() || other.empty()) return scale_rows<Width>(one.empty() ? other : one, first, end, rows);
  for (Index row = first; row < end; ++row)
    lanes<Width>(rows + (row - first) * Width) *= lanes<Width>(one.row(row)) * lanes<Width>(other.row(row));
}

/// `Width` neighbouring columns of an array as rows of their own, contiguous: the rows of the array may all fall into the same cache set.
template <int Width, class Scalar>
[[nodiscard]] LaneRows<Scalar, Width> lane_rows(const Array<Scalar>& array, Index column) {
  LaneRows<Scalar, Width> rows(array.rows());
  for (Index i = 0; i < array.rows(); ++i) rows.row(i) = lanes<Width>(array.row(i) + column);
  return rows;
}

IMPLICIT_ATTENTION_NAMESPACE_END
