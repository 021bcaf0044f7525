// Reductions over channels: from one matrix per channel to one map over tokens.
#pragma once

#include <implicit_attention/core/array.hpp>

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

IMPLICIT_ATTENTION_NAMESPACE_END
