// The kernels and the operator, compiled elsewhere: see instantiations.hpp.
#pragma once

#include <implicit_attention/operator/implicit_attention.hpp>

#include <implicit_attention/kernels/scan_gradient.hpp>

#define IMPLICIT_ATTENTION_KERNELS(TEMPLATE, S)                                                                                            \
  TEMPLATE void detail::signed_product(View<S>, ConstView<S>, ConstView<S>, S, bool, detail::Transposed::Neither);                         \
  TEMPLATE void detail::signed_product(View<S>, ConstView<S>, ConstView<S>, S, bool, detail::Transposed::Left);                            \
  TEMPLATE void detail::signed_product(View<S>, ConstView<S>, ConstView<S>, S, bool, detail::Transposed::Right);                           \
  TEMPLATE void detail::widen(Dtype, const std::byte*, Index, S*, Index);                                                                  \
  TEMPLATE struct DiagonalRecurrence<S>;                                                                                                   \
  TEMPLATE class detail::ChannelTile<S>;                                                                                                   \
  TEMPLATE class detail::RowTile<1, S>;                                                                                                    \
  TEMPLATE class detail::RowTile<8, S>;                                                                                                    \
  TEMPLATE class detail::RowTile<32, S>;                                                                                                   \
  TEMPLATE void scan(const SurroundedDiagonal<S>&, const ScanInput<S>&, View<S>, const Executor&, View<S>*, const NumberChange<S>&);       \
  TEMPLATE void scan_transposed(const SurroundedDiagonal<S>&, ConstView<S>, View<S>, const Executor&);                                     \
  TEMPLATE ScanGradient<S> scan_gradient(const SurroundedDiagonal<S>&, ConstView<S>, const Array<S>&, ConstView<S>, const Executor&, bool, \
                                         const ScanFunctions<S>&);                                                                         \
  TEMPLATE void convolve(const SurroundedDiagonal<S>&, const ScanInput<S>&, View<S>, const Executor&);                                     \
  TEMPLATE void convolve_transposed(ConstView<S>, const std::vector<Index>&, ConstView<S>, View<S>, const Executor&);                      \
  TEMPLATE void attention_rows(const SurroundedDiagonal<S>&, const std::vector<Index>&, const std::vector<Index>&, View<S>,                \
                               const Executor&);                                                                                           \
  IMPLICIT_ATTENTION_REDUCED_ROWS(TEMPLATE, S, SurroundedDiagonal, Add)                                                                    \
  IMPLICIT_ATTENTION_REDUCED_ROWS(TEMPLATE, S, SurroundedDiagonal, AddAbsolute)                                                            \
  IMPLICIT_ATTENTION_REDUCED_ROWS(TEMPLATE, S, SurroundedDiagonal, AddPositive)                                                            \
  IMPLICIT_ATTENTION_REDUCED_ROWS(TEMPLATE, S, SurroundedDiagonal, Largest)                                                                \
  IMPLICIT_ATTENTION_REDUCED_ROWS(TEMPLATE, S, SurroundedDiagonal, Smallest)
#define IMPLICIT_ATTENTION_HEAD_KERNELS(TEMPLATE, S)                                                                                       \
  TEMPLATE struct HeadRecurrence<S>;                                                                                                       \
  TEMPLATE class detail::SubBlockProducts<S>;                                                                                              \
  TEMPLATE struct detail::BlockFactors<S>;                                                                                                 \
  TEMPLATE class detail::HeadBlockGradient<S>;                                                                                             \
  TEMPLATE class detail::RowBlocks<S>;                                                                                                     \
  TEMPLATE class detail::ProductRows<S>;                                                                                                   \
  TEMPLATE void head_scan(const HeadRecurrence<S>&, const Array<S>&, const Array<S>&, View<S>, const Executor&, View<S>*);                 \
  TEMPLATE void head_scan_transposed(const HeadRecurrence<S>&, ConstView<S>, View<S>, const Executor&);                                    \
  TEMPLATE HeadScanGradient<S> head_scan_gradient(const HeadRecurrence<S>&, ConstView<S>, const Array<S>&, ConstView<S>, const Executor&); \
  TEMPLATE void plain_head_scan(const HeadRecurrence<S>&, const Array<S>&, const Array<S>&, View<S>, const Executor&, View<S>*);           \
  TEMPLATE void plain_head_scan_transposed(const HeadRecurrence<S>&, ConstView<S>, View<S>, const Executor&);                              \
  TEMPLATE void matrix_rows(const SharedMatrix<S>&, Index, Index, Index, View<S>);                                                         \
  TEMPLATE void matrix_apply(const SharedMatrix<S>&, const Array<S>&, const Array<S>&, View<S>, const Executor&, View<S>*);                \
  TEMPLATE void matrix_apply_transposed(const SharedMatrix<S>&, ConstView<S>, View<S>, const Executor&);                                   \
  TEMPLATE void head_rows(const SharedMatrix<S>&, const std::vector<Index>&, const std::vector<Index>&, View<S>, const Executor&);         \
  TEMPLATE void attention_rows(const SurroundedMatrix<S>&, const std::vector<Index>&, const std::vector<Index>&, View<S>,                  \
                               const Executor&);                                                                                           \
  TEMPLATE struct detail::RecurrenceKernelsOf<DiagonalRecurrence<S>>;                                                                      \
  TEMPLATE struct detail::MatrixKernelsOf<HeadRecurrence<S>>;                                                                              \
  TEMPLATE struct detail::MatrixKernelsOf<SoftmaxRecurrence<S>>;                                                                           \
  TEMPLATE struct detail::MatrixKernelsOf<ToeplitzRecurrence<S>>;                                                                          \
  TEMPLATE struct detail::MatrixKernelsOf<ExplicitRecurrence<S>>;                                                                          \
  TEMPLATE class Recurrence<S>;                                                                                                            \
  IMPLICIT_ATTENTION_REDUCED_ROWS(TEMPLATE, S, SurroundedMatrix, Add)                                                                      \
  IMPLICIT_ATTENTION_REDUCED_ROWS(TEMPLATE, S, SurroundedMatrix, AddAbsolute)                                                              \
  IMPLICIT_ATTENTION_REDUCED_ROWS(TEMPLATE, S, SurroundedMatrix, AddPositive)                                                              \
  IMPLICIT_ATTENTION_REDUCED_ROWS(TEMPLATE, S, SurroundedMatrix, Largest)                                                                  \
  IMPLICIT_ATTENTION_REDUCED_ROWS(TEMPLATE, S, SurroundedMatrix, Smallest)                                                                 \
  TEMPLATE void scan(const SurroundedMatrix<S>&, const ScanInput<S>&, View<S>, const Executor&, View<S>*);                                 \
  TEMPLATE void scan_transposed(const SurroundedMatrix<S>&, ConstView<S>, View<S>, const Executor&);                                       \
  TEMPLATE Matrix<S> softmax_carry(const SoftmaxRecurrence<S>&, const Executor&);                                                          \
  TEMPLATE SoftmaxGradient<S> softmax_gradient(const SoftmaxRecurrence<S>&, ConstView<S>, ConstView<S>, const Executor&);                  \
  TEMPLATE struct UnifiedForm<S>;                                                                                                          \
  TEMPLATE DiagonalRecurrence<S> identity_recurrence(Index, Index);                                                                        \
  TEMPLATE class AttentionMatrix<S>;                                                                                                       \
  TEMPLATE class ImplicitAttention<S>;
#define IMPLICIT_ATTENTION_REDUCED_ROWS(TEMPLATE, S, SURROUNDED, JOIN)                                                             \
  TEMPLATE void reduced_rows(const SURROUNDED<S>&, const std::vector<Index>&, const std::vector<Index>&, View<S>, const Executor&, \
                             const detail::JOIN&, S);

#include <implicit_attention/core/host_macros_off.hpp>
IMPLICIT_ATTENTION_NAMESPACE_BEGIN

IMPLICIT_ATTENTION_KERNELS(extern template, float)
IMPLICIT_ATTENTION_KERNELS(extern template, double)
IMPLICIT_ATTENTION_HEAD_KERNELS(extern template, float)
IMPLICIT_ATTENTION_HEAD_KERNELS(extern template, double)
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_KERNELS)
IMPLICIT_ATTENTION_KERNELS(template, float)
IMPLICIT_ATTENTION_KERNELS(template, double)
#endif
#if defined(IMPLICIT_ATTENTION_INSTANTIATE) || defined(IMPLICIT_ATTENTION_INSTANTIATE_HEAD_KERNELS)
IMPLICIT_ATTENTION_HEAD_KERNELS(template, float)
IMPLICIT_ATTENTION_HEAD_KERNELS(template, double)
#endif

IMPLICIT_ATTENTION_NAMESPACE_END
#include <implicit_attention/core/host_macros_on.hpp>

#undef IMPLICIT_ATTENTION_KERNELS
#undef IMPLICIT_ATTENTION_HEAD_KERNELS
#undef IMPLICIT_ATTENTION_REDUCED_ROWS
