// Reductions over channels: from one matrix per channel to one map over tokens.
#pragma once

#include <limits>

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

/// Whether `kind` divides by the number of channels.
[[nodiscard]] constexpr bool is_mean(ReductionKind kind) { return kind != ReductionKind::max && kind != ReductionKind::min; }

}  // namespace detail

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>
