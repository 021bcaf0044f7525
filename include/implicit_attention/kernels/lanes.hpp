// Neighbouring channels that are computed together: fixed numbers of them, in whole registers without a remainder loop.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#if defined(__AVX512F__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/core/lanes.hpp>
#include <implicit_attention/core/types.hpp>
#include <implicit_attention/core/vector_register.hpp>

/// Inlines everything that the function calls. In long functions compilers keep what Eigen computes as separate functions; the tile then
/// goes through memory between them, and the reads of all arrays come from one instruction, so that the hardware prefetcher cannot tell
/// their patterns apart: a scan took up to three times as long. Off without optimisation and with the address sanitizer, where compiling
/// would take minutes.
#if defined(__GNUC__) && defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__)
#define IMPLICIT_ATTENTION_FLATTEN __attribute__((flatten))
#else
#define IMPLICIT_ATTENTION_FLATTEN
#endif

#include <implicit_attention/core/host_macros_off.hpp>
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
  [[nodiscard]] static LaneRows Ones(Index rows) {
    LaneRows all(rows);
    std::fill_n(all.data(), rows * Width, Scalar(1));
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

namespace detail {

/// `Count` numbers from number `By` on of two neighbouring registers.
template <int By, class Scalar, int Count>
EIGEN_ALWAYS_INLINE typename LaneRegister<Scalar, Count>::type shifted(const typename LaneRegister<Scalar, Count>::type& numbers,
                                                                       const typename LaneRegister<Scalar, Count>::type& next) {
#if defined(__AVX512F__) && defined(__GNUC__)
  // For two registers of 64 bytes compilers emit a general permutation, which takes longer than a shift.
  if constexpr (Count * sizeof(Scalar) == 64) {
    const __m512i first = reinterpret_cast<__m512i>(numbers), second = reinterpret_cast<__m512i>(next);
    constexpr int words = By * static_cast<int>(sizeof(Scalar) / 4);
    return reinterpret_cast<typename LaneRegister<Scalar, Count>::type>(_mm512_alignr_epi32(second, first, words));
  }
#endif
#if IMPLICIT_ATTENTION_SHUFFLES
  return [&]<int... n>(std::integer_sequence<int, n...>)->typename LaneRegister<Scalar, Count>::type {
    return __builtin_shufflevector(numbers, next, (By + n)...);
  }
  (std::make_integer_sequence<int, Count>());
#else
  Scalar both[static_cast<std::size_t>(2 * Count)];
  LaneRegister<Scalar, Count>::store(both, numbers);
  LaneRegister<Scalar, Count>::store(both + Count, next);
  return LaneRegister<Scalar, Count>::load(both + By);
#endif
}

}  // namespace detail

/// Prefetches `Width` numbers.
template <int Width, class Scalar>
EIGEN_ALWAYS_INLINE void prefetch([[maybe_unused]] const Scalar* numbers) {
#if defined(__GNUC__)
  for (Index i = 0; i < Width; i += detail::numbers_in_a_line<Scalar>) __builtin_prefetch(numbers + i, 0, 2);
  __builtin_prefetch(numbers + (Width - 1), 0, 2);  // where a tile straddles lines
#endif
}

/// Asks for `Width` numbers that will be written.
template <int Width, class Scalar>
EIGEN_ALWAYS_INLINE void prefetch_written([[maybe_unused]] Scalar* numbers) {
#if defined(__GNUC__)
  for (Index i = 0; i < Width; i += detail::numbers_in_a_line<Scalar>) __builtin_prefetch(numbers + i, 1, 2);
  __builtin_prefetch(numbers + (Width - 1), 1, 2);
#endif
}

namespace detail {

/// The rows of an array from one column on, found once: a walk reads them by the thousand, and an array asks at each whether its numbers
/// are in memory. Empty where the array is.
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

/// The same for an existing row of an array that may be empty.
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
/// The same, or one row of ones where there is no array: rates, whose only state then decays by exp(step).
template <int Width, class Scalar>
[[nodiscard]] LaneRows<Scalar, Width> rate_rows(const Array<Scalar>& rate, Index column) {
  return rate.empty() ? LaneRows<Scalar, Width>::Ones(1) : lane_rows<Width>(rate, column);
}

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
