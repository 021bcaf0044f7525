// The trace and its operations, compiled elsewhere: see instantiations.hpp.
#pragma once

#include <implicit_attention/instantiations/kernels.hpp>
#include <implicit_attention/trace/causal_convolution.hpp>
#include <implicit_attention/trace/heads.hpp>
#include <implicit_attention/trace/operations.hpp>
#include <implicit_attention/trace/recurrences.hpp>
#include <implicit_attention/trace/rotary.hpp>
#include <implicit_attention/trace/walk_back.hpp>

#define IMPLICIT_ATTENTION_TRACE(TEMPLATE, S)                                                                                              \
  TEMPLATE Matrix<S> detail::project(ConstView<S>, const Array<S>&, const Array<S>&, const Executor&);                                     \
  TEMPLATE void detail::project_back(ConstView<S>, const Array<S>&, Matrix<S>&, const Executor&);                                          \
  TEMPLATE Matrix<S> detail::convolution_of(const Array<S>&, const Array<S>&, const Array<S>&, const Array<S>&, const std::vector<Index>&, \
                                            const Executor&);                                                                              \
  TEMPLATE void detail::take_values(Function, detail::Numbers<S>);                                                                         \
  TEMPLATE void detail::take_slopes(Function, detail::Numbers<S>);                                                                         \
  TEMPLATE void detail::take_scales(Function, detail::Numbers<S>);                                                                         \
  TEMPLATE Matrix<S> function_values(Function, ConstView<S>);                                                                              \
  TEMPLATE Matrix<S> function_values(Function, ConstView<S>, const Executor&);                                                             \
  TEMPLATE Matrix<S> function_slopes(Function, ConstView<S>);                                                                              \
  TEMPLATE Matrix<S> function_scales(Function, ConstView<S>);                                                                              \
  TEMPLATE class Norm<S>;                                                                                                                  \
  TEMPLATE class Back<S>;                                                                                                                  \
  TEMPLATE class Trace<S>;                                                                                                                 \
  TEMPLATE Value<S> linear(const Value<S>&, const Array<S>&, const Array<S>&, const Array<S>*);                                            \
  TEMPLATE Value<S> block_linear(const Value<S>&, const Array<S>&, const Array<S>&);                                                       \
  TEMPLATE Value<S> apply_function(Function, Value<S>);                                                                                    \
  TEMPLATE Value<S> add(Value<S>, Value<S>);                                                                                               \
  TEMPLATE Value<S> subtract(const Value<S>&, const Value<S>&);                                                                            \
  TEMPLATE Value<S> times(Value<S>, S);                                                                                                    \
  TEMPLATE Value<S> times_row(const Value<S>&, const Array<S>&);                                                                           \
  TEMPLATE Value<S> plus_row(const Value<S>&, const Array<S>&);                                                                            \
  TEMPLATE Value<S> one_minus(const Value<S>&);                                                                                            \
  TEMPLATE Value<S> detail::multiply(Value<S>, Value<S>, detail::FirstFactor);                                                             \
  TEMPLATE Value<S> gated_product(Function, Value<S>, const Value<S>&);                                                                    \
  TEMPLATE Value<S> columns(const Value<S>&, Index, Index);                                                                                \
  TEMPLATE Value<S> gather_columns(const Value<S>&, std::vector<Index>);                                                                   \
  TEMPLATE Value<S> join(const std::vector<Value<S>>&);                                                                                    \
  TEMPLATE Value<S> token_shift(const Value<S>&, const Array<S>&, const std::vector<Index>&);                                              \
  TEMPLATE Value<S> token_mix(const Value<S>&, const Value<S>&, const Array<S>&);                                                          \
  TEMPLATE Value<S> convolution(const Value<S>&, const Array<S>&, const Array<S>&, const Array<S>&, const std::vector<Index>&);            \
  TEMPLATE Matrix<S> next_tail(ConstView<S>, const Array<S>&, Index);                                                                      \
  TEMPLATE Value<S> normalize(const Norm<S>&, const Value<S>&, Norm<S>::Statistics*);                                                      \
  TEMPLATE Value<S> centre(const Value<S>&, Index);                                                                                        \
  TEMPLATE Value<S> soft_cap(Value<S>, S, const Array<S>*);                                                                                \
  TEMPLATE Value<S> rotary_positions(const Value<S>&, const Rotary&, const std::vector<Index>&);                                           \
  TEMPLATE GatedDecay<S> gated_decay(const Value<S>&, const RowVector<S>&, const std::vector<Index>&);                                     \
  TEMPLATE Value<S> diagonal_recurrence(const DiagonalRecurrence<S>&, const DiagonalInputs<S>&, const FunctionOf<S>&, const Array<S>&,     \
                                        const Value<S>&, const Array<S>&, Matrix<S>*, const FunctionOf<S>&, const Array<S>*);              \
  TEMPLATE Value<S> exponential_average(const ImplicitAttention<S>&, const Value<S>&, const Value<S>&, const Value<S>&, Matrix<S>*);       \
  TEMPLATE Value<S> head_recurrence(const HeadRecurrence<S>&, const HeadInputs<S>&, const Value<S>&, const Array<S>&, Matrix<S>*);         \
  TEMPLATE Value<S> softmax_attention(const SoftmaxRecurrence<S>&, const Value<S>&, const Value<S>&, const Value<S>&);                     \
  TEMPLATE Value<S> toeplitz(const ToeplitzRecurrence<S>&, const Value<S>&, const Value<S>&);                                              \
  TEMPLATE Value<S> repeat_heads(const Value<S>&, Index, Index);                                                                           \
  TEMPLATE Value<S> head_dot(const Value<S>&, const Value<S>&, Index);                                                                     \
  TEMPLATE Value<S> spread_heads(const Value<S>&, Index);

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_TRACE(extern template, float)
IMPLICIT_ATTENTION_TRACE(extern template, double)
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_TRACE)
IMPLICIT_ATTENTION_TRACE(template, float)
IMPLICIT_ATTENTION_TRACE(template, double)
#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#undef IMPLICIT_ATTENTION_TRACE
