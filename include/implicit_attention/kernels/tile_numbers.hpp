// A tile's numbers by token: as they stand in an array, or made of those for some tokens at a time.
#pragma once

#include <functional>

#include <implicit_attention/kernels/lanes.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// Changes neighbouring numbers in place, each by itself; none where it is empty.
template <Real Scalar>
using NumberChange = std::function<void(detail::Numbers<Scalar>)>;

/// What a scan reads in place of the numbers that it is given: made where they are needed and kept nowhere.
template <Real Scalar>
struct ScanFunctions {
  NumberChange<Scalar> input;       ///< what the recurrence is applied to, of what is given in its place
  NumberChange<Scalar> gate;        ///< likewise the gate
  NumberChange<Scalar> gate_slope;  ///< the slope of `gate`: then a gradient of the gate is that of what is given in its place
};

namespace detail {

/// `Width` neighbouring columns.
template <int Width, Real Scalar>
class TileNumbers {
 public:
  /// Without a change they are read where they stand.
  TileNumbers(const ArrayRows<Scalar>& rows, const NumberChange<Scalar>& change) : given_(rows), change_(change ? &change : nullptr) {}

  [[nodiscard]] bool empty() const { return given_.empty(); }
  /// Makes the numbers of tokens begin .. end - 1, which alone are there until the next call, in `made`.
  void enter(Index begin, Index end, RowVector<Scalar>& made) {
    if (change_ == nullptr || given_.empty()) return;
    constexpr Index ahead = 16;  // rows, which lie far from each other
    if (made.size() < (end - begin) * Width) made.resize((end - begin) * Width);
    for (Index token = begin; token < end; ++token) {
      if (token + ahead < end) prefetch<Width>(given_.row(token + ahead));
      lanes<Width>(made.data() + (token - begin) * Width) = lanes<Width>(given_.row(token));
    }
    (*change_)(Numbers<Scalar>(made.data(), (end - begin) * Width));
    made_ = made.data();
    begin_ = begin;
  }
  [[nodiscard]] EIGEN_ALWAYS_INLINE const Scalar* row(Index token) const {
    return change_ == nullptr ? given_.row(token) : made_ + (token - begin_) * Width;
  }
  /// Asks for a token's numbers where they are read as they stand.
  EIGEN_ALWAYS_INLINE void prefetch_token(Index token) const {
    if (change_ == nullptr) prefetch<Width>(given_, token);
  }

 private:
  ArrayRows<Scalar> given_;
  const NumberChange<Scalar>* change_;
  const Scalar* made_ = nullptr;
  Index begin_ = 0;
};

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
