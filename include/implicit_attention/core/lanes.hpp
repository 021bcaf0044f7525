// Neighbouring numbers that are computed together: expressions that are evaluated register by register, of fixed numbers or of any.
#pragma once

#include <cstddef>
#include <type_traits>

#include <implicit_attention/core/lane_register.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

namespace detail {

/// What is computed register by register when it is assigned: at<Count>(i) gives numbers i .. i + Count - 1. `width` is how many there are,
/// or Eigen::Dynamic; `in_registers`, whether all of its functions are vectorised: else it is computed number by number, so that each
/// number is what it is by itself. Eigen's expressions do the same, but a compiler has fifty functions to make of each; here it has four.
template <class E>
concept LaneExpression = requires {
  typename E::LaneExpressionTag;
};

/// What owns its numbers is referred to in an expression, all else is small and copied.
template <class E>
using LaneOperand = std::conditional_t<E::owns_numbers, const E&, E>;

enum class LaneOperation { add, subtract, multiply, divide, larger, smaller };

template <LaneOperation Operation, class A, class B>
class LaneBinary;
template <class Function, class A>
class LaneFunction;
template <class Number, int Width>
class LaneConstant;

/// What every expression can be asked for.
template <class E>
class LaneMethods {
 public:
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto exp() const { return function<eigen_functions::scalar_exp_op>(); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto expm1() const { return function<eigen_functions::scalar_expm1_op>(); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto log1p() const { return function<eigen_functions::scalar_log1p_op>(); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto tanh() const { return function<eigen_functions::scalar_tanh_op>(); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto sqrt() const { return function<eigen_functions::scalar_sqrt_op>(); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto square() const { return function<eigen_functions::scalar_square_op>(); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto cube() const { return function<eigen_functions::scalar_cube_op>(); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto inverse() const { return function<eigen_functions::scalar_inverse_op>(); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto abs() const { return function<eigen_functions::scalar_abs_op>(); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto operator-() const { return function<eigen_functions::scalar_opposite_op>(); }
  /// Of a NaN and a number, what stands here.
  template <LaneExpression Other>
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto max(const Other& other) const {
    return LaneBinary<LaneOperation::larger, E, Other>(self(), other);
  }
  template <LaneExpression Other>
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto min(const Other& other) const {
    return LaneBinary<LaneOperation::smaller, E, Other>(self(), other);
  }
  template <class Number>
    requires std::is_arithmetic_v<Number>
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto max(Number number) const { return max(LaneConstant<Number, E::width>(number)); }
  template <class Number>
    requires std::is_arithmetic_v<Number>
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto min(Number number) const { return min(LaneConstant<Number, E::width>(number)); }

  [[nodiscard]] EIGEN_ALWAYS_INLINE auto sum() const {
    using Scalar = typename E::Scalar;
    const Index size = self().size();
    constexpr int count = register_numbers_of<Scalar, E::width>;
    constexpr Index pair = Index(2) * count;
    using Register = LaneRegister<Scalar, count>;
    typename Register::type even = Register::zero(), odd = Register::zero();  // sums that do not wait for each other
    Index i = 0;
    for (; i + pair <= size; i += pair) {
      even = even + self().template at<count>(i);
      odd = odd + self().template at<count>(i + count);
    }
    if (i + count <= size) {
      even = even + self().template at<count>(i);
      i += count;
    }
    Scalar sum = sum_of<Scalar, count>(even + odd);
    for (; i < size; ++i) sum += self().template at<1>(i);
    return sum;
  }
  [[nodiscard]] EIGEN_ALWAYS_INLINE auto mean() const { return sum() / static_cast<typename E::Scalar>(self().size()); }

 private:
  template <template <class> class Function>
  EIGEN_ALWAYS_INLINE auto function() const {
    return LaneFunction<Function<typename E::Scalar>, E>(self());
  }
  [[nodiscard]] EIGEN_ALWAYS_INLINE const E& self() const { return static_cast<const E&>(*this); }
};

/// The same number wherever it is asked for.
template <class Number, int Width>
class LaneConstant {
 public:
  using LaneExpressionTag = void;
  using Scalar = Number;
  static constexpr int width = Width;
  static constexpr bool owns_numbers = false, constant = true, in_registers = true;

  EIGEN_ALWAYS_INLINE explicit LaneConstant(Number number) : number_(number) {}
  template <int Count>
  [[nodiscard]] EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> at(Index) const {
    return number_ - LaneRegister<Scalar, Count>::zero();
  }

 private:
  Number number_;
};

template <LaneOperation Operation, class A, class B>
class LaneBinary : public LaneMethods<LaneBinary<Operation, A, B>> {
 public:
  using LaneExpressionTag = void;
  using Scalar = typename A::Scalar;
  static constexpr int width = A::width;
  static constexpr bool owns_numbers = false, constant = false, in_registers = A::in_registers && B::in_registers;
  static_assert(width == B::width && std::is_same_v<Scalar, typename B::Scalar>);

  EIGEN_ALWAYS_INLINE LaneBinary(const A& a, const B& b) : a_(a), b_(b) {
    if constexpr (width == Eigen::Dynamic && !A::constant && !B::constant) {
      eigen_assert(a.size() == b.size());
    }
  }
  template <int Count>
  [[nodiscard]] EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> at(Index i) const {
    const LaneNumbers<Scalar, Count> a = a_.template at<Count>(i), b = b_.template at<Count>(i);
    if constexpr (Operation == LaneOperation::add) return a + b;
    if constexpr (Operation == LaneOperation::subtract) return a - b;
    if constexpr (Operation == LaneOperation::multiply) return a * b;
    if constexpr (Operation == LaneOperation::divide) return a / b;
    if constexpr (Operation == LaneOperation::larger) return larger<Scalar, Count>(a, b);
    if constexpr (Operation == LaneOperation::smaller) return smaller<Scalar, Count>(a, b);
  }
  [[nodiscard]] EIGEN_ALWAYS_INLINE Index size() const {
    if constexpr (A::constant)
      return b_.size();
    else
      return a_.size();
  }

 private:
  LaneOperand<A> a_;
  LaneOperand<B> b_;
};

template <class Function, class A>
class LaneFunction : public LaneMethods<LaneFunction<Function, A>> {
 public:
  using LaneExpressionTag = void;
  using Scalar = typename A::Scalar;
  static constexpr int width = A::width;
  static constexpr bool owns_numbers = false, constant = false, in_registers = A::in_registers && vectorised<Function>;

  EIGEN_ALWAYS_INLINE explicit LaneFunction(const A& a) : a_(a) {}
  template <int Count>
  [[nodiscard]] EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> at(Index i) const {
    return function_of<Function, Scalar, Count>(a_.template at<Count>(i));
  }
  [[nodiscard]] EIGEN_ALWAYS_INLINE Index size() const { return a_.size(); }

 private:
  LaneOperand<A> a_;
};

#define IMPLICIT_ATTENTION_LANE_OPERATOR(symbol, name)                              \
  template <LaneExpression A, LaneExpression B>                                     \
  EIGEN_ALWAYS_INLINE auto operator symbol(const A& a, const B& b) {                \
    return LaneBinary<LaneOperation::name, A, B>(a, b);                             \
  }                                                                                 \
  template <LaneExpression A>                                                       \
  EIGEN_ALWAYS_INLINE auto operator symbol(const A& a, typename A::Scalar number) { \
    return a symbol LaneConstant<typename A::Scalar, A::width>(number);             \
  }                                                                                 \
  template <LaneExpression A>                                                       \
  EIGEN_ALWAYS_INLINE auto operator symbol(typename A::Scalar number, const A& a) { \
    return LaneConstant<typename A::Scalar, A::width>(number) symbol a;             \
  }
IMPLICIT_ATTENTION_LANE_OPERATOR(+, add)
IMPLICIT_ATTENTION_LANE_OPERATOR(-, subtract)
IMPLICIT_ATTENTION_LANE_OPERATOR(*, multiply)
IMPLICIT_ATTENTION_LANE_OPERATOR(/, divide)
#undef IMPLICIT_ATTENTION_LANE_OPERATOR

/// Neighbouring numbers of somebody's memory, `Width` or (Eigen::Dynamic) any number of them: a reference, whose copy stands for the same
/// memory, and to which numbers are assigned.
template <class Number, int Width>
class LanesAt : public LaneMethods<LanesAt<Number, Width>> {
 public:
  using LaneExpressionTag = void;
  using Scalar = std::remove_const_t<Number>;
  static constexpr int width = Width, register_numbers = register_numbers_of<Scalar, Width>;
  static constexpr bool owns_numbers = false, constant = false, in_registers = true;

  EIGEN_ALWAYS_INLINE explicit LanesAt(Number* numbers, Index size = Width) : numbers_(numbers), size_(size) {}
  LanesAt(const LanesAt&) = default;
  /// Numbers that may be changed are numbers that may be read.
  EIGEN_ALWAYS_INLINE LanesAt(const LanesAt<Scalar, Width>& other)  // NOLINT(google-explicit-constructor)
      requires std::is_const_v<Number> : LanesAt(other.data(), other.size()) {}
  // Numbers that are assigned to themselves are read and written as they are.
  EIGEN_ALWAYS_INLINE LanesAt& operator=(const LanesAt& numbers) { return assign(numbers); }  // NOLINT(bugprone-unhandled-self-assignment)
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
  EIGEN_ALWAYS_INLINE LanesAt& operator/=(Scalar number) { return assign(*this / number); }
  EIGEN_ALWAYS_INLINE void setConstant(Scalar number) { assign(LaneConstant<Scalar, Width>(number)); }
  EIGEN_ALWAYS_INLINE void setZero() { setConstant(Scalar(0)); }
  EIGEN_ALWAYS_INLINE void setOnes() { setConstant(Scalar(1)); }

  [[nodiscard]] EIGEN_ALWAYS_INLINE Index size() const { return Width == Eigen::Dynamic ? size_ : Width; }
  [[nodiscard]] EIGEN_ALWAYS_INLINE Number* data() const { return numbers_; }
  [[nodiscard]] EIGEN_ALWAYS_INLINE Number& operator[](Index i) const { return numbers_[i]; }
  template <int Count>
  [[nodiscard]] EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> at(Index i) const {
    return LaneRegister<Scalar, Count>::load(numbers_ + i);
  }

 private:
  template <class E>
  EIGEN_ALWAYS_INLINE LanesAt& assign(const E& e) {
    static_assert(E::width == Width && std::is_same_v<typename E::Scalar, Scalar>, "implicit_attention: other numbers than those here");
    Number* const to = numbers_;
    if constexpr (Width == Eigen::Dynamic) {
      const Index size = size_;
      if constexpr (!E::constant) {
        eigen_assert(e.size() == size);
      }
      Index whole = 0;
      if constexpr (E::in_registers) {
        whole = size - size % register_numbers;
        for (Index i = 0; i < whole; i += register_numbers)
          LaneRegister<Scalar, register_numbers>::store(to + i, e.template at<register_numbers>(i));
      }
      for (Index i = whole; i < size; ++i) to[i] = e.template at<1>(i);
    } else {
      IMPLICIT_ATTENTION_UNROLL
      for (int i = 0; i < Width; i += register_numbers)
        LaneRegister<Scalar, register_numbers>::store(to + i, e.template at<register_numbers>(i));
    }
    return *this;
  }
  Number* numbers_;
  Index size_;
};

/// Neighbouring numbers in memory, in a row. What is done number by number is written on these two.
template <class Scalar>
using Numbers = LanesAt<Scalar, Eigen::Dynamic>;
template <class Scalar>
using ConstNumbers = LanesAt<const Scalar, Eigen::Dynamic>;

/// `Width` numbers, in registers.
template <class Number, int Width>
class Lanes : public LaneMethods<Lanes<Number, Width>> {
 public:
  using LaneExpressionTag = void;
  using Scalar = Number;
  static constexpr int width = Width, register_numbers = register_numbers_of<Scalar, Width>, registers = Width / register_numbers;
  static constexpr bool owns_numbers = true, constant = false, in_registers = true;
  using Register = LaneRegister<Scalar, register_numbers>;

  Lanes() = default;
  template <LaneExpression E>
  EIGEN_ALWAYS_INLINE Lanes(const E& e) {  // NOLINT(google-explicit-constructor)
    *this = e;
  }
  template <LaneExpression E>
  EIGEN_ALWAYS_INLINE Lanes& operator=(const E& e) {
    static_assert(E::width == Width && std::is_same_v<typename E::Scalar, Scalar>, "implicit_attention: other numbers than those here");
    IMPLICIT_ATTENTION_UNROLL
    for (int i = 0; i < registers; ++i) registers_[i] = e.template at<register_numbers>(i * register_numbers);
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

  [[nodiscard]] static EIGEN_ALWAYS_INLINE Lanes Constant(Scalar number) { return LaneConstant<Scalar, Width>(number); }
  [[nodiscard]] static EIGEN_ALWAYS_INLINE Lanes Zero() { return Constant(Scalar(0)); }
  [[nodiscard]] static EIGEN_ALWAYS_INLINE Lanes Ones() { return Constant(Scalar(1)); }
  EIGEN_ALWAYS_INLINE void setZero() { *this = Zero(); }
  EIGEN_ALWAYS_INLINE void setOnes() { *this = Ones(); }

  [[nodiscard]] static constexpr Index size() { return Width; }
  /// `Count` is a register's numbers, or 1.
  template <int Count>
  [[nodiscard]] EIGEN_ALWAYS_INLINE LaneNumbers<Scalar, Count> at(Index i) const {
    if constexpr (Count == register_numbers)
      return registers_[i / register_numbers];
    else
      return LaneRegister<Scalar, Count>::load(data() + i);
  }
  [[nodiscard]] EIGEN_ALWAYS_INLINE typename Register::type& in_register(int i) { return registers_[i]; }
  [[nodiscard]] EIGEN_ALWAYS_INLINE const typename Register::type& in_register(int i) const { return registers_[i]; }
  /// The numbers in memory, for what looks at single ones.
  [[nodiscard]] EIGEN_ALWAYS_INLINE const Scalar* data() const { return reinterpret_cast<const Scalar*>(registers_); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE Scalar* data() { return reinterpret_cast<Scalar*>(registers_); }
  [[nodiscard]] EIGEN_ALWAYS_INLINE Scalar operator[](Index lane) const { return data()[lane]; }
  [[nodiscard]] EIGEN_ALWAYS_INLINE Scalar& operator[](Index lane) { return data()[lane]; }

 private:
  alignas(register_numbers * sizeof(Scalar)) typename Register::type registers_[static_cast<std::size_t>(registers)];
};

/// The largest number of all lanes, or NaN where one is.
template <class Scalar, int Width>
[[nodiscard]] EIGEN_ALWAYS_INLINE Scalar largest_lane(const Lanes<Scalar, Width>& of) {
  using Register = typename Lanes<Scalar, Width>::Register;
  typename Register::type together = of.in_register(0);
  IMPLICIT_ATTENTION_UNROLL
  for (int i = 1; i < Lanes<Scalar, Width>::registers; ++i) {
    together = larger_or_nan<Scalar, Lanes<Scalar, Width>::register_numbers>(together, of.in_register(i));
  }
  Scalar numbers[static_cast<std::size_t>(Lanes<Scalar, Width>::register_numbers)];
  Register::store(numbers, together);
  for (const Scalar number : numbers)
    if (!(numbers[0] > number) && numbers[0] == numbers[0]) numbers[0] = number;
  return numbers[0];
}

/// Whether the first `lanes` numbers are all as `is` says.
template <class Scalar, int Width, class Is>
[[nodiscard]] EIGEN_ALWAYS_INLINE bool all_lanes(const Lanes<Scalar, Width>& of, Index lanes, const Is& is) {
  bool all = true;
  for (Index lane = 0; lane < lanes; ++lane) all &= is(of[lane]);
  return all;
}

}  // namespace detail

using detail::Lanes;

template <int Width, class Scalar>
[[nodiscard]] EIGEN_ALWAYS_INLINE detail::LanesAt<const Scalar, Width> lanes(const Scalar* numbers) {
  return detail::LanesAt<const Scalar, Width>(numbers);
}
template <int Width, class Scalar>
[[nodiscard]] EIGEN_ALWAYS_INLINE detail::LanesAt<Scalar, Width> lanes(Scalar* numbers) {
  return detail::LanesAt<Scalar, Width>(numbers);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
