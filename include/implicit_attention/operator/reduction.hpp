// Reductions over channels: from one matrix per channel to one map over tokens.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include <implicit_attention/core/array.hpp>
#include <implicit_attention/kernels/reducers.hpp>

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

/// What is done to each channel's entries before and while they are joined.
enum class ReductionKind {
  mean,           ///< mean over channels
  mean_abs,       ///< mean of absolute values
  mean_positive,  ///< mean of positive parts
  max,            ///< largest over channels
  min             ///< smallest over channels
};

/// map[i,j] = join over the chosen channels e of f( row_weights[i,e] A_e[i,j] column_weights[j,e] ); empty weights are ones.
/// With row weights g = d logit / d y and column weights x it is gradient times attention (formulation: token level).
template <Real Scalar>
struct Reduction {
  ReductionKind kind = ReductionKind::mean;
  Array<Scalar> row_weights;     ///< (tokens, channels), or empty
  Array<Scalar> column_weights;  ///< (tokens, channels), or empty
};

namespace detail {

/// Calls `body` with the operation that joins values of `kind`, and with its initial value. Means are sums here: the caller divides.
template <Real Scalar, class Body>
void with_reducer(ReductionKind kind, const Body& body) {
  constexpr Scalar infinity = std::numeric_limits<Scalar>::infinity();
  switch (kind) {
    case ReductionKind::mean:
      return body(Add{}, Scalar(0));
    case ReductionKind::mean_abs:
      return body(AddAbsolute{}, Scalar(0));
    case ReductionKind::mean_positive:
      return body(AddPositive{}, Scalar(0));
    case ReductionKind::max:
      return body(Largest{}, -infinity);
    case ReductionKind::min:
      return body(Smallest{}, infinity);
  }
}

/// Row weights whose rows are of ordinary size. A gradient fades with its distance from what is explained; its products with decays leave the
/// range of float32, where some processors take a hundred times as long and results lose digits. A row's largest weight is brought near 1
/// by a power of two, which every kind of reduction passes on, so that no digit changes but of what would have underflowed.
template <Real Scalar>
class RowWeights {
 public:
  /// `rows` are those that are reduced.
  RowWeights(const Array<Scalar>& weights, const std::vector<Index>& rows) : numbers_(weights) {
    if (weights.empty()) return;
    Matrix<Scalar> scaled;
    for (std::size_t place = 0; place < rows.size(); ++place) {
      const Index row = rows[place];
      const Scalar largest = weights.matrix().row(row).cwiseAbs().template maxCoeff<Eigen::PropagateNaN>();
      if (!(largest > Scalar(0)) || largest >= small_) continue;  // also a NaN
      int exponent = 0;
      std::frexp(largest, &exponent);
      exponent = std::max(exponent, 2 - std::numeric_limits<Scalar>::max_exponent);
      if (scaled.size() == 0) {
        scaled = weights.matrix();
        scales_.setOnes(static_cast<Index>(rows.size()));
      }
      scaled.row(row) = weights.matrix().row(row) * std::ldexp(Scalar(1), -exponent);  // a row that is asked for twice is scaled once
      scales_[static_cast<Index>(place)] = std::ldexp(Scalar(1), exponent);
    }
    if (scaled.size() != 0) numbers_ = Array<Scalar>(std::move(scaled));
  }

  [[nodiscard]] const Array<Scalar>& numbers() const { return numbers_; }
  /// Brings reduced rows, (rows, tokens), back to their size.
  void restore(View<Scalar> out) const {
    for (Index place = 0; place < scales_.size(); ++place)
      if (scales_[place] != Scalar(1)) out.row(place) *= scales_[place];
  }

 private:
  static constexpr Scalar small_ = Scalar(0x1p-32);  // larger ones are left as they are
  Array<Scalar> numbers_;
  RowVector<Scalar> scales_;  // of the rows that are reduced; empty where none is scaled
};

/// Whether `kind` divides by the number of channels.
[[nodiscard]] constexpr bool is_mean(ReductionKind kind) { return kind != ReductionKind::max && kind != ReductionKind::min; }

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
